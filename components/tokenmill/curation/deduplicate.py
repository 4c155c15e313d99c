"""Clean → Dedup: exact and near duplicates (report §3.1.1: MinHash, 128 functions, document 5-grams, threshold 0.7).

LSH finds candidates (16 bands of 8 rows: a pair of similarity s meets with probability 1-(1-s^8)^16, so .06 at .5,
.61 at .7, .95 at .8); agreement of the whole signatures decides (σ ≈ .04 at 128). Of a cluster the copy of the newest
crawl dump stays, then the longest, then the last by id: the answer hangs neither on the order of shards nor on the
number of workers.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
from rensa import RMinHash

from tokenmill.curation.config import DeduplicateConfig
from tokenmill.errors import ConfigError, InputError
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.records import read_jsonl
from tokenmill.steps import Drop, Keep, StepContext, step
from tokenmill.store import open_store

Priority = tuple[tuple[int, ...], int, str]
BUCKET_CAP = 50
"""Above this size a bucket's members are compared with its best one only, not pairwise."""


@step("curation.deduplicate", version=1, libraries=("rensa",), kinds={"corpus": "corpus"})
def deduplicate(config: DeduplicateConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """Of equal or nearly equal documents keep one; the others name their survivor."""
    if config.permutations % config.bands:
        raise ConfigError(
            f"curation.deduplicate.bands: {config.bands} does not divide {config.permutations} permutations"
        )
    sketch = Sketch(ctx.store.uri, config)
    prints = [p for shard in ctx.parallel(sketch, corpus.shards, "signatures") for p in shard]
    return ctx.map_shards(corpus, Sift(find_duplicates(prints, config), config.threshold))


@dataclass(frozen=True)
class Fingerprint:
    """What is compared of a document: all that travels between processes."""

    id: str
    priority: Priority
    group: str
    exact: bytes
    signature: np.ndarray | None
    """None where a document is compared exactly only."""


@dataclass(frozen=True)
class Duplicate:
    survivor: str
    similarity: float


@dataclass(frozen=True)
class Sift:
    """Drops the records that have a survivor elsewhere."""

    duplicates: dict[str, Duplicate]
    threshold: float

    def __call__(self, record: dict[str, Any]) -> Keep | Drop:
        duplicate = self.duplicates.get(record["id"])
        if duplicate is None:
            return Keep(record)
        reason = "exact_duplicate" if duplicate.similarity == 1 else "near_duplicate"
        return Drop(
            reason, record | {"survivor": duplicate.survivor}, value=duplicate.similarity, threshold=self.threshold
        )


@dataclass(frozen=True)
class Sketch:
    """Fingerprints of one shard's records."""

    store_uri: str
    config: DeduplicateConfig

    def __call__(self, shard: Shard) -> list[Fingerprint]:
        return [fingerprint(r, self.config) for r in read_jsonl(open_store(self.store_uri).blob_path(shard.blob))]


def fingerprint(record: dict[str, Any], config: DeduplicateConfig) -> Fingerprint:
    text = record["text"]
    signature = None
    if record["type"] not in config.exact_only:
        grams = shingles(text, record["type"], record["lang"], config.ngram)
        if grams:
            minhash = RMinHash(num_perm=config.permutations, seed=config.seed)
            minhash.update(sorted(grams))
            signature = np.array(minhash.digest(), dtype=np.uint32)
    priority = (dump_number(record.get("dump")), len(text), record["id"])
    exact = sha256(text.encode()).digest()
    return Fingerprint(record["id"], priority, record["lang"], exact, signature)


# --- what two documents have in common -------------------------------------------------------------------------------

_PUNCTUATION = re.compile(r"[\W_]+")
_LEXEME = re.compile(r"\w+|[^\w\s]")


def shingles(text: str, kind: str, lang: str, n: int) -> set[str]:
    """The set of n-grams: of words, of characters in Chinese, of lexemes in code.

    Lexemes know no indentation: copies indented by two spaces, four or a tab are one file (report §3.1.2). A text too
    short for one n-gram has none, and is compared exactly only.
    """
    if kind == "code":
        units: list[str] | str = _LEXEME.findall(text)
    elif lang == "zh":
        units = _PUNCTUATION.sub("", text.lower())
    else:
        units = _PUNCTUATION.sub(" ", text.lower()).split()
    glue = "" if isinstance(units, str) else " "
    return {glue.join(units[i : i + n]) for i in range(len(units) - n + 1)}


def dump_number(dump: str | None) -> tuple[int, ...]:
    """`CC-MAIN-2023-40` → (2023, 40); none is older than any."""
    return tuple(int(n) for n in re.findall(r"\d+", dump or ""))


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Share of equal positions: the estimate of the Jaccard similarity."""
    return float(np.mean(a == b))


# --- clusters --------------------------------------------------------------------------------------------------------


def find_duplicates(prints: Iterable[Fingerprint], config: DeduplicateConfig) -> dict[str, Duplicate]:
    """Map each document that goes to the survivor of its cluster."""
    ranked = sorted(prints, key=lambda p: p.priority, reverse=True)
    for one, other in pairwise(ranked):
        if one.id == other.id:
            raise InputError(f"two documents have the id {one.id}: was a corpus merged with itself?")
    duplicates: dict[str, Duplicate] = {}
    first: dict[tuple[str, bytes], str] = {}
    distinct: list[Fingerprint] = []
    for p in ranked:
        survivor = first.setdefault((p.group, p.exact), p.id)
        if survivor == p.id:
            distinct.append(p)
        else:
            duplicates[p.id] = Duplicate(survivor, 1.0)

    parent = list(range(len(distinct)))  # union-find; a root is its cluster's best, since lower index = higher priority

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in candidates(distinct, config.bands):  # candidates have signatures
        ra, rb = root(a), root(b)
        if ra != rb and agreement(distinct[a].signature, distinct[b].signature) >= config.threshold:  # type: ignore[arg-type]
            parent[max(ra, rb)] = min(ra, rb)
    for i, p in enumerate(distinct):
        best = distinct[root(i)]
        if best is not p:
            similarity = agreement(p.signature, best.signature)  # type: ignore[arg-type]
            duplicates[p.id] = Duplicate(best.id, min(similarity, 0.999))
    for gone, duplicate in duplicates.items():  # an exact copy of a near duplicate names the last survivor too
        if duplicate.survivor in duplicates:
            duplicates[gone] = Duplicate(duplicates[duplicate.survivor].survivor, duplicate.similarity)
    return duplicates


def candidates(prints: list[Fingerprint], bands: int) -> Iterator[tuple[int, int]]:
    """Index pairs that share a band of the same group; indices ascend in a bucket, best first."""
    for band in range(bands):
        buckets: defaultdict[tuple[str, bytes], list[int]] = defaultdict(list)
        for i, p in enumerate(prints):
            if p.signature is not None:
                rows = len(p.signature) // bands
                buckets[p.group, p.signature[band * rows : (band + 1) * rows].tobytes()].append(i)
        for members in buckets.values():
            small = len(members) <= BUCKET_CAP
            for position, a in enumerate(members[:-1] if small else members[:1]):
                for b in members[position + 1 :]:
                    yield a, b
