"""Scorers applied to a corpus: their scores join the record, and nothing is dropped.

Scoring and deciding are apart: `screen` and `grade` compare the scores with thresholds, so that another threshold runs no
model again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from tokenmill.curation.config import ScoreConfig
from tokenmill.curation.scorer import Scorer, load_scorer, orientation
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.records import read_jsonl, write_jsonl
from tokenmill.steps import StepContext, step
from tokenmill.steps.context import scratch
from tokenmill.store import open_store

DOCUMENTS = 256
"""Documents scored at once."""


@step(
    "curation.score",
    version=1,
    reproducible="same_platform",
    libraries=("numpy", "numba"),
    kinds={"corpus": "corpus", "scorers": "scorer"},
)
def score(config: ScoreConfig, corpus: Manifest, scorers: list[Manifest], ctx: StepContext) -> Draft:
    """Add to every document of the scored types the score of every scorer that knows its language."""
    folders = tuple(ctx.files(manifest) for manifest in sorted(scorers, key=lambda m: m.content))
    loaded = [load_scorer(folder) for folder in folders]
    refuse_rivals(loaded)
    work = ScoreShard(
        ctx.store.uri, folders, config.types, config.execution.device, config.execution.batch, f"work/{ctx.key}/scored"
    )
    shards = tuple(ctx.parallel(work, list(enumerate(corpus.shards)), "shards"))
    n = sum(shard.records for shard in shards)
    facts = {one.name: {"digest": one.digest, "higher_is": orientation(one.name)} for one in loaded}
    counts = {"in": n, "records": n, "dropped": 0, "rejected": 0}
    return Draft(kind="corpus", shards=shards, counts=counts, facts={"scorers": facts})


def refuse_rivals(scorers: Sequence[Scorer]) -> None:
    """Two scorers of one score may share it by language only."""
    for i, one in enumerate(scorers):
        for other in scorers[:i]:
            apart = one.languages and other.languages and not one.languages & other.languages
            if one.name == other.name and not apart:
                raise InputError(f"two scorers give the score {one.name!r} to one language: give one of them")


@dataclass(frozen=True)
class ScoreShard:
    """Writes one shard anew with the scores; a finished one is a marker, so that a killed attempt goes on from there."""

    store_uri: str
    folders: tuple[Path, ...]
    types: tuple[str, ...]
    device: str
    batch: int
    markers: str

    def __call__(self, job: tuple[int, Shard]) -> Shard:
        number, shard = job
        store, marker = open_store(self.store_uri), f"{self.markers}/{number}-{shard.content}.json"
        if store.backend.exists(marker):
            return Shard(**orjson.loads(store.backend.get(marker)))
        scorers = [_loaded(folder, self.device, self.batch) for folder in self.folders]
        with scratch() as folder:
            path = folder / "shard.jsonl.zst"
            rows = scored(read_jsonl(store.blob_path(shard.blob)), scorers, self.types)
            content, count = write_jsonl(path, rows)
            blob, size = store.put_blob(path)
        written = Shard(name=shard.name, blob=blob, content=content, size=size, records=count)
        store.backend.put(marker, orjson.dumps(written.model_dump()))
        return written


@lru_cache(maxsize=8)
def _loaded(folder: Path, device: str, batch: int) -> Scorer:
    return load_scorer(folder, device, batch)


def scored(
    records: Iterator[dict[str, Any]], scorers: Sequence[Scorer], types: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The records in order, with scores to four decimals; DOCUMENTS of them at a time are in memory."""
    while group := [record for _, record in zip(range(DOCUMENTS), records, strict=False)]:
        for scorer in scorers:
            mine = [
                i
                for i, r in enumerate(group)
                if r["type"] in types and (not scorer.languages or r["lang"] in scorer.languages)
            ]
            values = scorer.score([group[i]["text"] for i in mine]) if mine else ()
            for i, value in zip(mine, values, strict=True):
                group[i] = group[i] | {"scores": group[i]["scores"] | {scorer.name: round(float(value), 4)}}
        yield from group
