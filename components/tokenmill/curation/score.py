"""Scorers applied to a corpus: their scores join the record, and nothing is dropped.

Scoring and deciding are apart: `screen` and `grade` compare the scores with thresholds, so that another threshold runs no
model again.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from tokenmill.curation.linear_scorer import LinearScorer, score_together
from tokenmill.curation.load_scorer import load_scorer
from tokenmill.curation.scorer import Scorer, orientation
from tokenmill.curation.scorer_config import ScoreConfig
from tokenmill.curation.scorers import folders_in
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.records import read_jsonl, write_jsonl
from tokenmill.steps import StepContext, step
from tokenmill.steps.files import scratch
from tokenmill.store import open_store

DOCUMENTS = 256
"""Documents scored at once."""
_TYPE = re.compile(r"type=([^/]+)/")


@step(
    "curation.score",
    version=2,
    reproducible="same_platform",
    libraries=("numpy", "numba"),
    kinds={"corpus": "corpus", "scorers": ("scorer", "scorers")},
)
def score(config: ScoreConfig, corpus: Manifest, scorers: list[Manifest] | None, ctx: StepContext) -> Draft:
    """Add to every document of the scored types the score of every scorer that knows its language.

    Without a scorer, and for shards of other types, nothing is read.
    """
    artifacts = sorted(scorers or (), key=lambda m: m.content)
    folders = tuple(folder for one in artifacts for folder in folders_in(ctx.files(one)))
    loaded = [load_scorer(folder) for folder in folders]
    refuse_rivals(loaded)
    scored = {shard.name: shard for shard in corpus.shards if loaded and may_hold(shard, config.types)}
    work = ScoreShard(
        ctx.store.uri, folders, config.types, config.execution.device, config.execution.batch, f"work/{ctx.key}/scored"
    )
    written = zip(scored, ctx.parallel(work, list(enumerate(scored.values())), "shards"), strict=True)
    shards = tuple(({shard.name: shard for shard in corpus.shards} | dict(written)).values())
    n = sum(shard.records for shard in shards)
    facts = {one.name: {"digest": one.digest, "higher_is": orientation(one.name)} for one in loaded}
    counts = {"in": n, "records": n, "dropped": 0, "rejected": 0}
    return Draft(kind="corpus", shards=shards, counts=counts, facts={"scorers": facts})


def may_hold(shard: Shard, types: Sequence[str]) -> bool:
    """Whether a shard may have documents of these types, by its name; one that does not say may."""
    said = _TYPE.match(shard.name)
    return said is None or said[1] in types


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
            done = Shard(**orjson.loads(store.backend.get(marker)))
            if not store.missing([done]):
                return done
        with scratch() as folder:
            path = folder / "shard.jsonl.zst"
            passes = _passes(self.folders, self.device, self.batch)
            rows = scored(read_jsonl(store.blob_path(shard.blob)), passes, self.types)
            content, count = write_jsonl(path, rows)
            blob, size = store.put_blob(path)
        written = Shard(name=shard.name, blob=blob, content=content, size=size, records=count)
        store.backend.put(marker, orjson.dumps(written.model_dump()))
        return written


class Pass(NamedTuple):
    """What reads a text once: one scorer, or several of the same features and languages."""

    names: tuple[str, ...]
    languages: frozenset[str]
    score: Callable[[Sequence[str]], Sequence[np.ndarray]]
    """n texts → (n,) scores of each name."""


def passes(scorers: Sequence[Scorer]) -> list[Pass]:
    """Linear scorers together, since what they cost is reading; every other by itself."""
    linear: defaultdict[tuple[int, frozenset[str]], list[LinearScorer]] = defaultdict(list)
    found = []
    for scorer in scorers:
        if isinstance(scorer, LinearScorer):
            linear[len(scorer.weights), scorer.languages].append(scorer)
        else:
            found.append(Pass((scorer.name,), scorer.languages, partial(_score_alone, scorer)))
    for (_, languages), alike in linear.items():
        found.append(Pass(tuple(one.name for one in alike), languages, partial(score_together, alike)))
    return found


def _score_alone(scorer: Scorer, texts: Sequence[str]) -> list[np.ndarray]:
    return [scorer.score(texts)]


@lru_cache(maxsize=1)
def _passes(folders: tuple[Path, ...], device: str, batch: int) -> list[Pass]:
    return passes([load_scorer(folder, device, batch) for folder in folders])


def scored(records: Iterator[dict[str, Any]], passes: Sequence[Pass], types: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The records in order, with scores to four decimals; DOCUMENTS of them at a time are in memory."""
    while group := [record for _, record in zip(range(DOCUMENTS), records, strict=False)]:
        for one in passes:
            mine = [
                i
                for i, r in enumerate(group)
                if r["type"] in types and (not one.languages or r["lang"] in one.languages)
            ]
            given = one.score([group[i]["text"] for i in mine]) if mine else ()
            for name, values in zip(one.names, given, strict=bool(mine)):
                for i, value in zip(mine, values.tolist(), strict=True):
                    group[i] = group[i] | {"scores": group[i]["scores"] | {name: round(value, 4)}}
        yield from group
