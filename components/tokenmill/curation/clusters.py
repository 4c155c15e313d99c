"""From pairs to survivors: which documents are one, and which of them stays.

Estimates far from the threshold decide by themselves. Near it (σ of an estimate is 0.04) the texts decide, by the exact
Jaccard similarity of their n-grams, where they are still at hand: those of a stored index are not, and there the estimate
stands. Pairs that others connect already are not looked at, since they change nothing. Of a cluster the copy of the
newest crawl dump stays, then the longest, then the last by id: the answer hangs neither on the order of shards nor on the
number of workers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson

from tokenmill.curation.bands import EQUAL, PAIR, Bounds, band_rows, find_pairs, similarity
from tokenmill.curation.columns import mapped
from tokenmill.curation.disjoint_sets import apart, best_of_each, join_all
from tokenmill.curation.fingerprints import PRINTS, Index, Table, stored
from tokenmill.curation.minhash import jaccard, ngram_set
from tokenmill.curation.units import encoded, unit_kind
from tokenmill.manifest import Shard
from tokenmill.records import read_lines
from tokenmill.steps import StepContext
from tokenmill.store import open_store

Compare = Callable[[np.ndarray], np.ndarray]
"""Pairs → float64, their exact similarity; NaN where a text is not at hand."""
PAIRS_AT_ONCE = 4_000_000
NEVER_EQUAL = 0.999
"""What is told at most of documents that are not the same text."""


@dataclass
class Clusters:
    """Which document stands for each."""

    survivor: np.ndarray
    """int64 [documents]: its own number where a document stays."""
    copies: np.ndarray
    """bool [documents]: whether a better document has the same text."""
    measured: dict[tuple[int, int], float] = field(default_factory=dict)
    """Exact similarities of the pairs that were decided by their texts and are one."""

    def similarity(self, table: Table, number: int) -> float:
        """What a document that goes has in common with the one that stays."""
        if self.copies[number]:
            return 1.0
        best = int(self.survivor[number])
        pair = (min(number, best), max(number, best))
        if pair in self.measured:
            return round(min(self.measured[pair], NEVER_EQUAL), 4)
        agree = int((table.signatures[number] == table.signatures[best]).sum())
        return round(min(similarity(agree, table.signatures.shape[1]), NEVER_EQUAL), 4)


def settle(
    table: Table, pairs: Iterable[np.ndarray], bounds: Bounds, threshold: float, compare: Compare | None
) -> Clusters:
    """The clusters that pairs make.

    Args:
        table: the documents.
        pairs: `bands.PAIR` arrays, in any order, repetitions allowed; files that are mapped stay where they are.
        bounds: what the estimates say.
        threshold: what the exact similarities must reach.
        compare: exact similarities, where texts are at hand.
    """
    chunks = [part[at : at + PAIRS_AT_ONCE] for part in pairs for at in range(0, len(part), PAIRS_AT_ONCE)]
    parent, copies = table.array("cluster", 1, "<i8"), table.array("copies", 1, "?")
    parent[:] = np.arange(table.size)
    copies[:] = False
    for chunk in chunks:
        sure = chunk[chunk["agree"] >= bounds.high]
        join_all(parent, sure["a"], sure["b"])
        copies[sure["b"][sure["agree"] == EQUAL].astype(np.int64)] = True
    unsure = [_apart(parent, chunk[chunk["agree"] < bounds.high]) for chunk in chunks]
    open_pairs = np.unique(np.concatenate(unsure)) if sum(map(len, unsure)) else np.empty(0, PAIR)
    exact = compare(open_pairs) if compare and len(open_pairs) else np.full(len(open_pairs), np.nan)
    is_one = np.where(np.isnan(exact), open_pairs["agree"] >= bounds.middle, exact >= threshold)
    join_all(parent, open_pairs["a"][is_one], open_pairs["b"][is_one])
    decided = is_one & ~np.isnan(exact)
    keys = zip(open_pairs["a"][decided].tolist(), open_pairs["b"][decided].tolist(), strict=True)
    survivor = table.array("survivor", 1, "<i8")
    best_of_each(parent, table.priority, table.order, survivor)
    _keep_the_old(survivor, table.old)
    return Clusters(survivor, copies, dict(zip(keys, exact[decided].tolist(), strict=True)))


def _apart(parent: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The pairs whose documents nothing connects yet."""
    is_apart = np.empty(len(pairs), bool)
    apart(parent, pairs["a"], pairs["b"], is_apart)
    return np.unique(pairs[is_apart])


def _keep_the_old(survivor: np.ndarray, old: int) -> None:
    """Documents of a stored index are distinct by decision: a new one may supersede them, but not join them."""
    ours = survivor[:old]
    kept = np.flatnonzero(ours < old)
    ours[kept] = kept


def clusters(
    signatures: np.ndarray,
    *,
    threshold: float = 0.7,
    margin: float = 0.15,
    bands: int = 16,
    rounds: int = 3,
    priority: np.ndarray | None = None,
    compare: Callable[[int, int], float] | None = None,
) -> np.ndarray:
    """Group documents by their signatures.

    Args:
        signatures: as `minhash.signatures` gives them, [documents, permutations].
        threshold: Jaccard similarity from which two documents are one.
        margin: how near the threshold an estimate leaves the decision to `compare`.
        bands: bands a round; must divide the permutations.
        rounds: times the signature is cut into bands.
        priority: whole numbers [documents]; the highest of a cluster stays, of equals the last document.
        compare: exact similarity of two documents by number; without it the estimate decides.

    Returns:
        int64 [documents]: the number of the document that stays, for each.
    """
    n, permutations = signatures.shape
    row = np.arange(n, dtype=np.uint64)
    ranks = np.zeros(n, np.uint64) if priority is None else np.asarray(priority).astype(np.uint64)
    exact = np.concatenate([row[:, None], row[:, None]], axis=1).view(np.uint8)  # no two rows are told to be equal
    table = Table(stored(signatures), exact, np.zeros(n, np.uint64), ranks, row)
    bounds = Bounds.around(threshold, margin, permutations)
    pairs = find_pairs(table, band_rows(permutations, bands, rounds), bounds)

    def exactly(open_pairs: np.ndarray) -> np.ndarray:
        assert compare
        return np.array([compare(int(pair["a"]), int(pair["b"])) for pair in open_pairs])

    return settle(table, pairs, bounds, threshold, exactly if compare else None).survivor


# --- exact similarity, from texts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextComparison:
    """Exact similarities of pairs of new documents: their shards are read again, once, and only where they are asked for."""

    ctx: StepContext
    index: Index
    shards: Mapping[str, Shard]
    """Shards of the corpus by the names of their files of fingerprints."""
    ngram: int

    def __call__(self, pairs: np.ndarray) -> np.ndarray:
        similar = np.full(len(pairs), np.nan)
        at_hand = np.flatnonzero(pairs["a"] >= self.index.old)  # a < b: then both are new
        asked = np.unique(np.concatenate([pairs["a"][at_hand], pairs["b"][at_hand]])).astype(np.int64)
        places: dict[int, tuple[np.ndarray, int, int]] = {}
        jobs = list(self._jobs(asked))
        for numbers, (path, ends) in zip(
            (job.numbers for job in jobs), self.ctx.parallel(_write_ngram_sets, jobs, "texts"), strict=True
        ):
            sets = mapped(path, np.uint64)
            places |= {n: (sets, start, end) for n, start, end in zip(numbers, [0, *ends], ends, strict=False)}
        for k in at_hand:
            (one, a, b), (other, c, d) = places[int(pairs["a"][k])], places[int(pairs["b"][k])]
            similar[k] = jaccard(one[a:b], other[c:d])
        return similar

    def _jobs(self, asked: np.ndarray) -> Iterator["_SetsJob"]:
        bounds = np.searchsorted(asked, self.index.starts)
        for shard in range(self.index.old_shards, len(self.index.shards)):
            numbers = asked[bounds[shard] : bounds[shard + 1]]
            if len(numbers):
                rows = (numbers - self.index.starts[shard]).tolist()
                source = self.shards[self.index.shards[shard].name]
                path = self.ctx.workdir / f"ngrams-{shard:08d}"
                yield _SetsJob(self.ctx.store.uri, source, rows, numbers.tolist(), self.ngram, path)


@dataclass(frozen=True)
class _SetsJob:
    """Some rows of a shard, whose sets of n-grams are written one after the other."""

    store_uri: str
    shard: Shard
    rows: list[int]
    numbers: list[int]
    ngram: int
    path: Path


def _write_ngram_sets(job: _SetsJob) -> tuple[Path, list[int]]:
    """The file, and where in it each document's set ends."""
    wanted, ends, total = set(job.rows), [], 0
    with job.path.open("wb") as file:
        for row, line in enumerate(read_lines(open_store(job.store_uri).blob_path(job.shard.blob))):
            if row in wanted:
                record = orjson.loads(line)
                kind = unit_kind(record["type"], record["lang"])
                found = ngram_set(encoded(record["text"], kind), kind, job.ngram)
                file.write(found.tobytes())
                total += len(found)
                ends.append(total)
    return job.path, ends


def by_prints_name(shards: Iterable[Shard]) -> dict[str, Shard]:
    return {f"{shard.name}{PRINTS}": shard for shard in shards}
