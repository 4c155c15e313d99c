"""Dedup → Safe: blocked domains, blocked words, unsafe scores, and personal data (report §3.1.1).

Word blocking over-deletes, so words match whole: `ass` is not in `class`, nor `bet` in `between`. Toxicity and
pornography scores are *higher = worse*: a document goes above the threshold. (The report says "below"; the scores
that its authors published in WanJuan-CC say above.) They come from `curation.score` or any annotator, and stay in the
record, so that another threshold runs no model again: without them, these two rules pass every document.
"""

import re
from dataclasses import dataclass
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from tokenmill.curation.block_list import DOMAINS, WORDS, MappedDomains, host_name, suffixes
from tokenmill.curation.config import ScreenConfig
from tokenmill.curation.document import prepare
from tokenmill.curation.pii import redact
from tokenmill.curation.thresholds import Limits
from tokenmill.curation.words import WordList
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import Drop, Keep, StepContext, step

_PLAIN_URL = re.compile(r"https?://([a-z0-9-]+(?:\.[a-z0-9-]+)+)/")
KINDS = {"corpus": "corpus", "block_list": "block_list", "thresholds": "thresholds"}


@step("curation.screen", version=3, libraries=("ahocorasick-rs",), kinds=KINDS)
def screen(
    config: ScreenConfig, corpus: Manifest, block_list: Manifest | None, thresholds: Manifest | None, ctx: StepContext
) -> Draft:
    """Drop documents from blocked domains, with blocked words, or with unsafe scores; redact the others."""
    mapped: MappedDomains | None = None
    words: tuple[str, ...] = ()
    if block_list:
        mapped = MappedDomains(ctx.store.blob_path(block_list.shard(DOMAINS).blob))
        words = tuple(ctx.store.get_blob(block_list.shard(WORDS).blob).decode().splitlines())
    limits = Limits.load(default_limits(config), config.thresholds, thresholds, ctx.store)
    prepare()
    return ctx.map_shards(corpus, Safe.from_config(config, mapped, words, limits))


def default_limits(config: ScreenConfig) -> dict[str, float]:
    return {"toxic": config.max_toxic, "porn": config.max_porn}


@dataclass(frozen=True)
class Safe:
    """Decides for one record."""

    domains: frozenset[str]
    mapped: MappedDomains | None
    words: WordList
    min_word_hits: int
    limits: Limits
    redact: tuple[str, ...]
    redact_types: tuple[str, ...]

    @classmethod
    def from_config(
        cls,
        config: ScreenConfig,
        mapped: MappedDomains | None = None,
        words: tuple[str, ...] = (),
        limits: Limits | None = None,
    ) -> "Safe":
        """The built-in lists, the config's own entries, and the block list's."""
        listed = read_list if config.built_in_lists else lambda name: []
        return cls(
            frozenset(map(host_name, [*listed("domains.txt"), *config.blocked_domains])),
            mapped,
            WordList([*listed("words_en.txt"), *listed("words_zh.txt"), *config.blocked_words, *words]),
            config.min_word_hits,
            limits or Limits(default_limits(config), config.thresholds),
            config.redact,
            config.redact_types,
        )

    def __call__(self, record: dict[str, Any]) -> Keep | Drop:
        blocked = self.blocked_domain(record.get("url"))
        if blocked:
            return Drop("blocked_domain", record, value=blocked, threshold="no listed domain")
        hits = self.words.find(record["text"])
        if len(hits) >= self.min_word_hits:
            return Drop("blocked_word", record, value=sorted(set(hits)), threshold=self.min_word_hits)
        for name, limit in self.limits.of(record["lang"], record["type"]).items():
            score = record["scores"].get(name)
            if score is not None and score > limit:
                return Drop(name, record, value=score, threshold=limit)
        return Keep(self.redacted(record))

    def blocked_domain(self, url: str | None) -> str | None:
        """The listed domain that a URL's host is, or is below: `a.bad.com` is below `bad.com`, `notbad.com` is not."""
        if plain := _PLAIN_URL.match(url or ""):  # as most are: a tenth of the time
            host = plain[1]
        else:
            try:
                host = host_name(urlsplit(url or "").hostname or "")
            except ValueError:  # not a URL, so on no list
                return None
        above = suffixes(host) if host else []
        listed = next((domain for domain in above if domain in self.domains), None)
        return listed or (self.mapped.first(above) if self.mapped else None)

    def redacted(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with placeholders for personal data, and how many of each kind in `redacted` where there was any."""
        if record["type"] not in self.redact_types:
            return record
        text, counts = redact(record["text"], self.redact)
        return record | {"text": text, "redacted": counts} if counts else record


def read_list(name: str) -> list[str]:
    """The entries of a file in lists/, one a line; `#` starts a comment."""
    text = (resources.files("tokenmill.curation") / "lists" / name).read_text("utf-8")
    return [entry for line in text.splitlines() if (entry := line.partition("#")[0].strip())]
