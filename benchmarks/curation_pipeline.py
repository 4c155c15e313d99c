"""The row `pipeline`: the text pipeline from Clean to High-quality, reading and writing JSONL.zst, store and digests included.

Alone, `python benchmarks/curation_pipeline.py --megabytes 10,100,1000` shows how the cost grows, and `--workers 1,2` what a
second worker brings; `--bound` adds what the machine allows: two pipelines of one worker, each by itself, at once. Each
size is made of sentences of real English pages and books in random order, with planted faults,
copies and near-copies. A tiny corpus goes through first: imports and compilation are not timed.
"""

import argparse
import json
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from curation_rules import faulty, sentences

from tokenmill.manifest import Draft, Manifest
from tokenmill.records import Record, write_jsonl
from tokenmill.steps import find, run_step
from tokenmill.steps.files import store_file
from tokenmill.store import ArtifactStore, open_store
from tokenmill.tracking import RunRef

STAGES = ("filter", "deduplicate", "score", "screen", "grade")
"""`filter` makes Clean of what is ingested; from Clean to High-quality it is the others."""
SHARD_DOCUMENTS = 2_000
FAULTY, COPIED, ALIKE = 0.1, 0.03, 0.05
"""Shares of documents with a planted fault, of exact copies, of near-copies (one sentence in twenty left out)."""


def documents(megabytes: float, seed: int = 1) -> Iterator[Record]:
    """Web documents of 2 to 10 kB until their texts hold `megabytes`."""
    rng, pool = random.Random(seed), sentences()
    text: list[str] = []
    size = number = 0
    while size < megabytes * 1e6:
        draw = rng.random()
        if number and draw < ALIKE:
            text = [one for one in text if rng.random() > 0.05] or text
        elif not number or draw > ALIKE + COPIED:
            text = rng.choices(pool, k=rng.randrange(20, 100))
        written = " ".join(text)
        if rng.random() < FAULTY:
            written = faulty(written, rng)
        size += len(written.encode())
        yield {
            "id": f"{number:016x}", "text": written, "type": "web", "lang": "en", "source": "benchmark", "scores": {},
            "url": f"https://site-{rng.randrange(5000)}.example/{number}", "dump": "2026-10",
        }  # fmt: skip
        number += 1


def corpus_of(store: ArtifactStore, folder: Path, megabytes: float) -> Manifest:
    """The documents as a corpus in a store."""
    shards, rows = [], list[Record]()

    def close() -> None:
        name = f"type=web/lang=en/part-{len(shards):05d}.jsonl.zst"
        path = folder / "part.jsonl.zst"
        write_jsonl(path, rows)
        shards.append(store_file(store, path, name, len(rows)))
        rows.clear()

    for record in documents(megabytes):
        rows.append(record)
        if len(rows) == SHARD_DOCUMENTS:
            close()
    if rows:
        close()
    draft = Draft(kind="corpus", shards=tuple(shards), counts={"records": sum(s.records for s in shards)})
    manifest = Manifest.issue(draft, parents={}, step="benchmark", version=1, config={})
    store.put_manifest(manifest)
    return manifest


def once(megabytes: float, workers: int) -> dict[str, Any]:
    """Seconds of every stage, by the clock and of the processors, workers included."""
    with tempfile.TemporaryDirectory() as scratch:
        store = open_store(f"file://{scratch}/store")
        corpus = corpus_of(store, Path(scratch), megabytes)
        scorers = [_step(store, "train_scorer", {"score": name}) for name in ("toxic", "porn")]
        told: dict[str, Any] = {"documents": corpus.counts["records"]}
        for stage in STAGES:
            inputs = {"corpus": corpus} | ({"scorers": scorers} if stage == "score" else {})
            wall, cpu = time.monotonic(), _processors()
            corpus = _step(store, stage, {"execution": {"workers": workers}}, **inputs)
            told[f"{stage} wall s"], told[f"{stage} CPU s"] = time.monotonic() - wall, _processors() - cpu
        told["kept"] = corpus.counts["records"]
    return told


def _step(store: ArtifactStore, step: str, settings: dict[str, Any], **inputs: Any) -> Manifest:
    name = f"curation.{step}"
    config = find(name).config.at(name, settings)
    return run_step(name, config, inputs, store=store, run=RunRef(key="b", name="b"))["output"]


def _processors() -> float:
    mine, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + ended.ru_utime + ended.ru_stime


def measure(megabytes: float, workers: int = 1, rounds: int = 1) -> dict[str, Any]:
    """Medians of some rounds, and MB a second; peak memory of this process, which with one worker does the work."""
    import statistics

    once(0.5, 1)
    runs = [once(megabytes, workers) for _ in range(rounds)]
    median: Callable[[str], float] = lambda name: statistics.median(run[name] for run in runs)  # noqa: E731
    refined = sum(median(f"{stage} CPU s") for stage in STAGES[1:])
    wall, cpu = (sum(median(f"{stage} {kind} s") for stage in STAGES) for kind in ("wall", "CPU"))
    return {
        "megabytes": megabytes,
        "workers": workers,
        "documents": runs[0]["documents"],
        "kept": runs[0]["kept"],
        **{f"{stage} MB/s of CPU": megabytes / median(f"{stage} CPU s") for stage in STAGES},
        "from Clean to High-quality MB/s of CPU": megabytes / refined,
        "all stages MB/s of CPU": megabytes / cpu,
        "all stages MB/s by the clock": megabytes / wall,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def bound(megabytes: float) -> float:
    """How much more two processes do than one: both measure the pipeline with one worker, at once."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        rates = [told["all stages MB/s by the clock"] for told in pool.map(measure, [megabytes] * 2)]
    return sum(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", default="10", help="sizes")
    parser.add_argument("--workers", default="1")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--bound", action="store_true", help="and what two processes at once do together")
    wanted = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for megabytes in map(float, wanted.megabytes.split(",")):
        for workers in map(int, wanted.workers.split(",")):
            print(json.dumps(measure(megabytes, workers, wanted.rounds) | {"load": os.getloadavg()[0]}), flush=True)
        if wanted.bound:
            told = {"megabytes": megabytes, "two at once, together MB/s by the clock": bound(megabytes)}
            print(json.dumps(told | {"load": os.getloadavg()[0]}), flush=True)


if __name__ == "__main__":
    main()
