"""Clean → Dedup: exact and near duplicates (report §3.1.1: MinHash, 128 functions, document 5-grams, threshold 0.7).

Map → exchange → reduce → apply. `fingerprint` maps a corpus, or a group of its shards, to 159 bytes a document; `exchange`
finds the pairs that meet in some bands; `cluster` joins them and names a survivor each; `deduplicate` drops the others. Each
can run in parallel tasks over groups and parts that follow from the data; `deduplicate` alone is all four in one process, and
its output is the same. A stored index takes the place of the texts of earlier dumps.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tokenmill.curation.columns import mapped
from tokenmill.curation.fingerprints import PRINTS, Index, Sketch, in_order
from tokenmill.curation.gather import gathered
from tokenmill.curation.plan import in_groups
from tokenmill.curation.repeats_config import (
    BandsConfig,
    ClusterConfig,
    DeduplicateConfig,
    ExchangeConfig,
    FingerprintConfig,
)
from tokenmill.errors import ConfigError, InputError
from tokenmill.manifest import Draft, Manifest, Shard, canonical, sha256
from tokenmill.records import JSONL, Record, read_jsonl
from tokenmill.steps import Drop, Keep, StepContext, step
from tokenmill.steps.files import store_file
from tokenmill.store import open_store

SECTION = "curation.deduplicate"
SUPERSEDED = f"superseded{JSONL}"
PAIRS = ".pairs"


def __getattr__(name: str) -> Any:
    """The pure functions `signatures` and `clusters`; their modules import numba, so not before they are asked for."""
    homes = {"signatures": "minhash", "clusters": "clusters"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"tokenmill.curation.{homes[name]}"), name)


@step("curation.fingerprint", version=1, section=SECTION, libraries=("numba",), kinds={"corpus": "corpus"})
def fingerprint(config: FingerprintConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """What is compared of each document, 159 bytes of it: a file a shard."""
    return _fingerprints(ctx.parallel(Sketch(ctx.store.uri, config), corpus.shards, "fingerprints"))


def _fingerprints(shards: Iterable[Shard]) -> Draft:
    kept = tuple(shards)
    counts = {"records": sum(s.records for s in kept), "bytes": sum(s.size for s in kept)}
    return Draft(kind="fingerprints", shards=kept, counts=counts)


@step(
    "curation.exchange",
    version=1,
    section=SECTION,
    libraries=("numba",),
    kinds={"fingerprints": "fingerprints", "index": "fingerprints"},
)
def exchange(
    config: ExchangeConfig, fingerprints: list[Manifest], index: list[Manifest] | None, ctx: StepContext
) -> Draft:
    """Pairs that are one document, or may be: those that meet in some of the bands."""
    table = Index.load(ctx.store, _shards(index or []), _shards(fingerprints), ctx.workdir)
    path = _find(config, table, ctx, config.part)
    shard = store_file(ctx.store, path, f"part-{config.part or 0:05d}{PAIRS}", path.stat().st_size // _pair_bytes())
    return Draft(kind="pairs", shards=(shard,), counts={"records": shard.records, "documents": table.size})


@step("curation.plan_exchange", version=1, section=SECTION, kinds={"fingerprints": "fingerprints"})
def plan_exchange(
    config: BandsConfig, fingerprints: list[Manifest], index: list[Manifest] | None, ctx: StepContext
) -> Draft:
    """In how many parts the bands are exchanged: what a loop of parallel tasks is counted by."""
    records = sum(m.counts["records"] for m in (*fingerprints, *(index or ())))
    parts = exchange_parts(records, config.part_records, config.bands * config.rounds)
    return ctx.write_json("plan", "plan.json", {"parts": parts}, counts={"parts": parts})


def exchange_parts(documents: int, part_records: int, bands: int) -> int:
    """In how many parts so many bands of so many documents are exchanged: one more for each `part_records`."""
    return min(bands, max(1, -(-documents // part_records)))


def _find(config: ExchangeConfig | DeduplicateConfig, table: Index, ctx: StepContext, part: int | None = None) -> Path:
    """A file of the pairs of one part of the bands, or of all; equal texts belong to the first."""
    from tokenmill.curation.bands import Bounds, band_rows, find_pairs

    permutations = table.signatures.shape[1] if table.size else config.bands
    if permutations % config.bands:
        raise ConfigError(f"{config.bands} bands do not divide {permutations} permutations")
    rows = band_rows(permutations, config.bands, config.rounds)
    parts = exchange_parts(table.size, config.part_records, len(rows)) if part is not None else 1
    part = part or 0
    if part >= parts:
        raise ConfigError(f"part {part} of the bands: there are {parts} (0 to {parts - 1}) for {table.size} documents")
    bounds = Bounds.around(config.threshold, config.margin, permutations)
    path = ctx.workdir / "pairs"
    with path.open("wb") as file:
        for pairs in find_pairs(table, rows[part::parts], bounds, with_equal=part == 0):
            file.write(pairs.tobytes())
    return path


def _pairs(path: Path) -> np.ndarray:
    """The pairs of a file, where they lie."""
    from tokenmill.curation.bands import PAIR

    return mapped(path, PAIR)


def _pair_bytes() -> int:
    from tokenmill.curation.bands import PAIR

    return PAIR.itemsize


@step(
    "curation.cluster",
    version=1,
    section=SECTION,
    libraries=("numba",),
    kinds={"fingerprints": "fingerprints", "pairs": "pairs", "corpus": "corpus", "index": "fingerprints"},
)
def cluster(
    config: ClusterConfig,
    fingerprints: list[Manifest],
    pairs: list[Manifest],
    corpus: Manifest,
    index: list[Manifest] | None,
    ctx: StepContext,
) -> dict[str, Draft]:
    """Join the pairs of all parts: who goes, and for whom. The corpus is read where only texts can decide."""
    table = Index.load(ctx.store, _shards(index or []), _shards(fingerprints), ctx.workdir)
    if wrong := [m for m in pairs if m.counts.get("documents") != table.size]:
        raise InputError(
            f"pairs {wrong[0].digest[:12]} are of {wrong[0].counts.get('documents')} documents, the fingerprints and "
            f"the index of {table.size}: give curation.cluster what curation.exchange was given"
        )
    found = [_pairs(ctx.store.blob_path(shard.blob)) for shard in _shards(pairs)]
    return _Decision(config, table, found, corpus, _shards(index or []), _shards(fingerprints), ctx).drafts()


@step("curation.deduplicate", version=2, libraries=("numba",), kinds={
    "corpus": "corpus", "index": "fingerprints", "duplicates": "duplicates",
})  # fmt: skip
def deduplicate(
    config: DeduplicateConfig,
    corpus: Manifest,
    index: list[Manifest] | None,
    duplicates: Manifest | None,
    ctx: StepContext,
) -> dict[str, Draft]:
    """Of equal or nearly equal documents keep one; the others name their survivor.

    With `duplicates`, as `curation.cluster` found them, only drop them.
    """
    if duplicates:
        return {"output": _apply(config, corpus, duplicates.shards, True, ctx)}
    prints = fingerprint(config, corpus, ctx).shards
    old = _shards(index or [])
    table = Index.load(ctx.store, old, prints, ctx.workdir)
    decision = _Decision(config, table, [_pairs(_find(config, table, ctx))], corpus, old, prints, ctx).drafts()
    decision["output"] = _apply(config, corpus, decision["output"].shards, bool(index), ctx)
    return decision


def _shards(manifests: Sequence[Manifest]) -> list[Shard]:
    """All shards of a role's artifacts, in one order whatever theirs."""
    return in_order(s for m in manifests for s in m.shards)


# --- reduce ----------------------------------------------------------------------------------------------------------


@dataclass
class _Decision:
    """What the clusters mean: duplicates to drop, an index for the next dump, and what of the stored index is superseded."""

    config: ClusterConfig
    table: Index
    pairs: Sequence[np.ndarray]
    corpus: Manifest
    old: Sequence[Shard]
    prints: Sequence[Shard]
    ctx: StepContext

    def drafts(self) -> dict[str, Draft]:
        from tokenmill.curation.bands import Bounds
        from tokenmill.curation.clusters import TextComparison, by_prints_name, settle

        parameters = next(
            (s.header["parameters"] for s in self.table.shards if len(s)), {"permutations": 1, "ngram": 1}
        )
        bounds = Bounds.around(self.config.threshold, self.config.margin, parameters["permutations"])
        sources = by_prints_name(self.corpus.shards)
        if lacking := sorted({s.name for s in self.prints} - set(sources)):
            raise InputError(
                f"fingerprints of {lacking[0]}, but the corpus has no such shard: they are another corpus's"
            )
        if lacking := sorted(set(sources) - {s.name for s in self.prints}):
            raise InputError(f"no fingerprints of {lacking[0].removesuffix(PRINTS)}: a group of the corpus is missing")
        compare = TextComparison(self.ctx, self.table, sources, parameters["ngram"])
        self.clusters = settle(self.table, self.pairs, bounds, self.config.threshold, compare)
        made = {"output": self._duplicates(), "index": self._index()}
        return made | ({"superseded": self._superseded()} if self.old else {})

    def _rows(self, shard: int, stays: bool) -> np.ndarray:
        """Rows of a shard whose document stays, or goes."""
        start, end = self.table.starts[shard], self.table.starts[shard + 1]
        return np.flatnonzero((self.clusters.survivor[start:end] == np.arange(start, end)) == stays)

    def _gone(self, shard: int) -> Iterator[Record]:
        for row in self._rows(shard, stays=False):
            number = int(self.table.starts[shard]) + int(row)
            yield {
                "id": self.table.shards[shard].id(int(row)),
                "survivor": self.table.id(int(self.clusters.survivor[number])),
                "similarity": self.clusters.similarity(self.table, number),
            }

    def _duplicates(self) -> Draft:
        new = range(self.table.old_shards, len(self.table.shards))
        names = {shard: self.table.shards[shard].name.removesuffix(PRINTS) for shard in new}
        rows: dict[str, Iterable[Record]] = {
            names[shard]: self._gone(shard) for shard in new if len(self._rows(shard, stays=False))
        }
        return self.ctx.write_records("duplicates", rows, counts={"documents": self.table.size - self.table.old})

    def _superseded(self) -> Draft:
        rows = (row for shard in range(self.table.old_shards) for row in self._gone(shard))
        return self.ctx.write_records("superseded", {SUPERSEDED: rows})

    def _index(self) -> Draft:
        """Fingerprints of what stays: of the stored index and of the corpus, whose shards get a name of their own."""
        made = sha256(canonical(sorted(s.content for s in self.prints)))[:12]
        known = Counter(s.name for s in self.old)
        old = [(s, s.name if known[s.name] == 1 else f"{s.content[:12]}/{s.name}") for s in self.old]
        kept = []
        for shard, (file, name) in enumerate([*old, *((s, f"{made}/{s.name}") for s in in_order(self.prints))]):
            rows = self._rows(shard, stays=True)
            if len(rows) == len(self.table.shards[shard]) > 0:
                kept.append(file.model_copy(update={"name": name}))
            elif len(rows):
                path = self.ctx.workdir / "kept.prints"
                self.table.shards[shard].select(path, rows)
                kept.append(store_file(self.ctx.store, path, name, len(rows)))
        return _fingerprints(in_order(kept))


# --- apply -----------------------------------------------------------------------------------------------------------


def _apply(
    config: DeduplicateConfig, corpus: Manifest, duplicates: Sequence[Shard], may_be_empty: bool, ctx: StepContext
) -> Draft:
    """Drop duplicates, a group of shards at a time: a worker holds a group's duplicates only."""
    blobs = {shard.name: shard.blob for shard in duplicates}
    drafts = []
    for group in in_groups(corpus.shards, config.group_records, lambda shard: shard.records):
        sift = Sift(ctx.store.uri, tuple(blobs[s.name] for s in group if s.name in blobs), config.threshold)
        part = corpus.model_copy(update={"shards": tuple(group)})
        drafts.append(ctx.map_shards(part, sift, may_be_empty=True))
    draft = gathered(drafts)
    if not draft.shards and not may_be_empty:
        raise InputError(f"curation.deduplicate: no record left of {draft.counts.get('in', 0)}")
    return draft


@dataclass(frozen=True)
class Sift:
    """Drops the records that have a survivor elsewhere."""

    store_uri: str
    blobs: tuple[str, ...]
    threshold: float

    def __call__(self, record: dict[str, Any]) -> Keep | Drop:
        found = _duplicates_of(self.store_uri, self.blobs).get(record["id"])
        if found is None:
            return Keep(record)
        survivor, similarity = found
        reason = "exact_duplicate" if similarity == 1 else "near_duplicate"
        return Drop(reason, record | {"survivor": survivor}, value=similarity, threshold=self.threshold)


@lru_cache(maxsize=1)
def _duplicates_of(store_uri: str, blobs: tuple[str, ...]) -> dict[str, tuple[str, float]]:
    """Id → survivor and similarity, read once a worker and group."""
    store = open_store(store_uri)
    rows = (row for blob in blobs for row in read_jsonl(Path(store.blob_path(blob))))
    return {row["id"]: (row["survivor"], row["similarity"]) for row in rows}
