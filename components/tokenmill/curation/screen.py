"""Dedup → Safe: blocked domains, blocked words, and the scores of safety classifiers (report §3.1.1).

Word blocking over-deletes, so words match whole: `ass` is not in `class`, nor `bet` in `between`. Toxicity and
pornography scores are *higher = worse*: a document goes above the threshold. (The report says "below"; the scores
that its authors published in WanJuan-CC say above.) They come from an annotator: without one, these two rules pass
every document.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from tokenmill.curation.config import ScreenConfig
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import Drop, Keep, StepContext, step


@step("curation.screen", version=1, kinds={"corpus": "corpus"})
def screen(config: ScreenConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """Drop documents from blocked domains, with blocked words, or with unsafe scores."""
    return ctx.map_shards(corpus, Safe.from_config(config))


@dataclass(frozen=True)
class Safe:
    """Decides for one record."""

    domains: frozenset[str]
    words: re.Pattern[str]
    min_word_hits: int
    limits: dict[str, float]

    @classmethod
    def from_config(cls, config: ScreenConfig) -> "Safe":
        listed = read_list if config.built_in_lists else lambda name: []
        return cls(
            frozenset(map(_domain, [*listed("domains.txt"), *config.blocked_domains])),
            whole_words([*listed("words_en.txt"), *listed("words_zh.txt"), *config.blocked_words]),
            config.min_word_hits,
            {"toxic": config.max_toxic, "porn": config.max_porn},
        )

    def __call__(self, record: dict[str, Any]) -> Keep | Drop:
        blocked = self.blocked_domain(record.get("url"))
        if blocked:
            return Drop("blocked_domain", record, value=blocked, threshold="no listed domain")
        hits = self.words.findall(record["text"])
        if len(hits) >= self.min_word_hits:
            return Drop("blocked_word", record, value=sorted({h.lower() for h in hits}), threshold=self.min_word_hits)
        for name, limit in self.limits.items():
            score = record["scores"].get(name)
            if score is not None and score > limit:
                return Drop(name, record, value=score, threshold=limit)
        return Keep(record)

    def blocked_domain(self, url: str | None) -> str | None:
        """The listed domain that a URL's host is, or is below: `a.bad.com` is below `bad.com`, `notbad.com` is not."""
        try:
            host = _domain(urlsplit(url or "").hostname or "")
        except ValueError:  # not a URL, so on no list
            return None
        parts = host.split(".")
        return next((d for i in range(len(parts)) if (d := ".".join(parts[i:])) in self.domains), None)


def whole_words(words: Iterable[str]) -> re.Pattern[str]:
    """One pattern for all words, case-insensitive; Latin ones match whole, Chinese ones (no boundaries) anywhere."""
    alternatives = []
    for word in sorted(set(words), key=lambda w: (-len(w), w)):
        literal = r"\s+".join(map(re.escape, word.split()))
        alternatives.append(rf"(?<!\w){literal}(?!\w)" if word.isascii() else literal)
    return re.compile("|".join(alternatives) or r"(?!)", re.IGNORECASE)


def read_list(name: str) -> list[str]:
    """The entries of a file in lists/, one a line; `#` starts a comment."""
    text = (resources.files("tokenmill.curation") / "lists" / name).read_text("utf-8")
    return [entry for line in text.splitlines() if (entry := line.partition("#")[0].strip())]


def _domain(name: str) -> str:
    """A host name as the DNS compares it: lower case, punycode, no dot at the end."""
    name = name.strip().strip(".").lower()
    return name if name.isascii() else name.encode("idna").decode()
