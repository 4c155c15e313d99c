"""MinHash deduplication beside datatrove's four stages and rensa, end to end, on one corpus with planted near-duplicates.

    python benchmarks/curation_deduplicate.py [--megabytes 5] [--runs 5] [--json results.json]
    python benchmarks/curation_deduplicate.py --scale 10,100,1000     # ours alone: is the cost linear, the memory bounded?

Each reads JSONL.zst and writes the JSONL.zst of what stays, in a process of its own with one worker. It first works through
a tiny corpus, so that imports and compilation are not timed; then come the runs, of which the median counts. Wall and
CPU time are both told: on a machine that others use, CPU time is what repeats. Equal bands for all: 16 of 8 rows.
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

LEVELS = (0.5, 0.6, 0.65, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Jaccard similarities of the planted pairs: above 0.7 one of two must go, below both must stay."""
PAIRS = 40
THRESHOLD = 0.7
SHARD = 2_000


# --- the corpus ------------------------------------------------------------------------------------------------------


def make_corpus(folder: Path, megabytes: float, seed: int = 1) -> dict[str, float]:
    """Write a corpus in shards; returns the planted pairs, `one other` → exact Jaccard similarity of their 5-grams."""
    from tokenmill.records import write_jsonl

    rng = random.Random(seed)
    vocabulary = [
        "".join(rng.choices("etaoinshrdlucmfwypvbgkjqxz", k=1 + min(12, int(rng.expovariate(0.25)))))
        for _ in range(30_000)
    ]
    weights = [1 / (rank + 3) for rank in range(len(vocabulary))]
    sentences = [
        " ".join(rng.choices(vocabulary, weights, k=rng.randint(8, 30))).capitalize() + "." for _ in range(20_000)
    ]
    planted: dict[str, float] = {}
    texts: list[str] = []
    for level in LEVELS:
        for _ in range(PAIRS):
            one, other, jaccard = planted_pair(rng, rng.choices(vocabulary, weights, k=900), level)
            planted[f"{len(texts):016x} {len(texts) + 1:016x}"] = jaccard
            texts += [one, other]
    size = sum(map(len, texts))
    while size < megabytes * 1e6:
        texts.append(" ".join(rng.choices(sentences, k=max(2, int(rng.lognormvariate(3.0, 0.6))))))
        size += len(texts[-1])
    records = [{"id": f"{n:016x}", "text": text, "type": "web", "lang": "en"} for n, text in enumerate(texts)]
    rng.shuffle(records)
    for n, start in enumerate(range(0, len(records), SHARD)):
        write_jsonl(folder / f"part-{n:05d}.jsonl.zst", records[start : start + SHARD])
    (folder / "planted.json").write_text(json.dumps(planted))
    (folder / "size.json").write_text(json.dumps({"bytes": size, "documents": len(records)}))
    return planted


def planted_pair(rng: random.Random, words: list[str], level: float) -> tuple[str, str, float]:
    """Two texts that share a beginning; of unusual words, so that n-grams do not repeat by chance."""
    n = len(words) // 2
    words = [f"{word}{rng.randrange(1000)}" for word in words]
    shared = round(2 * n * level / (1 + level))
    one, other = words[:n], words[:shared] + words[-(n - shared) :]
    a, b = ({tuple(text[i : i + 5]) for i in range(len(text) - 4)} for text in (one, other))
    return " ".join(one), " ".join(other), len(a & b) / len(a | b)


# --- those who run ---------------------------------------------------------------------------------------------------


def tokenmill(corpus: Path, folder: Path, rounds: int = 3) -> Callable[[], set[str]]:
    """The step as a pipeline runs it: store, digests and index included."""
    from tokenmill.manifest import Draft, Manifest
    from tokenmill.records import read_jsonl
    from tokenmill.steps import find, run_step
    from tokenmill.steps.files import store_file
    from tokenmill.store import open_store
    from tokenmill.tracking import RunRef

    store = open_store((folder / "store").as_uri())
    shards = [
        store_file(store, path, path.name, sum(1 for _ in read_jsonl(path))) for path in sorted(corpus.glob("*.zst"))
    ]
    draft = Draft(kind="corpus", shards=tuple(shards), counts={"records": sum(s.records for s in shards)})
    manifest = Manifest.issue(draft, parents={}, step="benchmark", version=1, config={})
    store.put_manifest(manifest)
    config = find("curation.deduplicate").config.at(
        "curation.deduplicate", {"rounds": rounds, "execution": {"workers": 1}}
    )
    made: dict[str, Manifest] = {}

    def run() -> None:
        made.update(
            run_step("curation.deduplicate", config, {"corpus": manifest}, store=store, run=RunRef(key="b", name="b"))
        )

    def kept() -> set[str]:
        index = made["index"]
        print(
            json.dumps({"index_bytes": sum(s.size for s in index.shards), "index": index.counts["records"]}),
            file=sys.stderr,
        )
        return {r["id"] for s in made["output"].shards for r in read_jsonl(store.blob_path(s.blob))}

    return timed(run, kept)


def tokenmill_one_round(corpus: Path, folder: Path) -> Callable[[], set[str]]:
    return tokenmill(corpus, folder, rounds=1)


def rensa(corpus: Path, folder: Path) -> Callable[[], set[str]]:
    """rensa's RMinHash and RMinHashLSH, shingled in Python as its README does; the first of a pair stays."""
    from rensa import RMinHash, RMinHashLSH

    from tokenmill.records import read_jsonl, write_jsonl

    def records() -> list:
        return [r for path in sorted(corpus.glob("*.zst")) for r in read_jsonl(path)]

    def run() -> None:
        lsh, kept, hashes = RMinHashLSH(threshold=THRESHOLD, num_perm=128, num_bands=16), [], {}
        for key, record in enumerate(records()):
            words = record["text"].lower().split()
            minhash = RMinHash(num_perm=128, seed=1)
            minhash.update([" ".join(words[i : i + 5]) for i in range(len(words) - 4)])
            if not any(minhash.jaccard(hashes[other]) >= THRESHOLD for other in lsh.query(minhash)):
                lsh.insert(key, minhash)
                hashes[key] = minhash
                kept.append(record)
        write_jsonl(folder / "kept.jsonl.zst", kept)

    return timed(run, lambda: {r["id"] for r in read_jsonl(folder / "kept.jsonl.zst")})


def datatrove(corpus: Path, folder: Path) -> Callable[[], set[str]]:
    """Its four stages: signatures, buckets, clusters, filter."""
    import orjson
    import zstandard
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.logging import logger

    logger.remove()
    hashing = HashConfig(precision=64, hash_fc="sha1")  # its default needs a package more
    config = MinhashConfig(n_grams=5, num_buckets=16, hashes_per_bucket=8, hash_config=hashing)

    def execute(name: str, *stages: object) -> None:
        LocalPipelineExecutor(
            list(stages), tasks=1, logging_dir=str(folder / "logs" / name), skip_completed=False
        ).run()

    def reader() -> JsonlReader:
        return JsonlReader(str(corpus), glob_pattern="*.zst", compression="zstd")

    def run() -> None:
        for name in ("signatures", "buckets", "remove", "out"):
            shutil.rmtree(folder / name, ignore_errors=True)
        path = {name: str(folder / name) for name in ("signatures", "buckets", "remove", "out")}
        start = time.perf_counter()
        execute("1", reader(), MinhashDedupSignature(path["signatures"], config))
        print(json.dumps({"first_stage_s": time.perf_counter() - start}), file=sys.stderr)
        LocalPipelineExecutor(
            [MinhashDedupBuckets(path["signatures"], path["buckets"], config=config)],
            tasks=16, workers=1, logging_dir=str(folder / "logs" / "2"), skip_completed=False,
        ).run()  # fmt: skip
        execute("3", MinhashDedupCluster(path["buckets"], path["remove"], config=config))
        execute("4", reader(), MinhashDedupFilter(path["remove"]), JsonlWriter(path["out"], compression="zstd"))

    def kept() -> set[str]:
        ids = set()
        for path in (folder / "out").rglob("*.zst*"):
            lines = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().splitlines()
            ids |= {orjson.loads(line)["id"] for line in lines}
        return ids

    return timed(run, kept)


def timed(run: Callable[[], None], kept: Callable[[], set[str]]) -> Callable[[], set[str]]:
    def once() -> set[str]:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        once.wall, once.cpu = time.perf_counter() - wall, time.process_time() - cpu  # type: ignore[attr-defined]
        return kept()

    return once


RUNNERS = {"tokenmill": tokenmill, "tokenmill, 1 round": tokenmill_one_round, "rensa": rensa, "datatrove": datatrove}


def run_alone(name: str, corpus: Path, runs: int) -> None:
    """In a process of its own: warm up, run, and print what was measured as one line of JSON."""
    with tempfile.TemporaryDirectory() as scratch:
        tiny = Path(scratch) / "tiny"
        tiny.mkdir()
        make_corpus(tiny, 0.01, seed=9)
        RUNNERS[name](tiny, Path(scratch) / "warm")()
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, cpu, kept = [], [], set()
        for turn in range(runs):
            once = RUNNERS[name](corpus, Path(scratch) / f"run{turn}")
            kept = once()
            wall.append(once.wall)  # type: ignore[attr-defined]
            cpu.append(once.cpu)  # type: ignore[attr-defined]
            shutil.rmtree(Path(scratch) / f"run{turn}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak / 1024, "start_mib": base / 1024, "kept": sorted(kept)}
        )
    )


# --- the report ------------------------------------------------------------------------------------------------------


def measure(name: str, corpus: Path, runs: int) -> dict:
    size = json.loads((corpus / "size.json").read_text())
    command = [sys.executable, __file__, "--one", name, "--corpus", str(corpus), "--runs", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    for line in done.stderr.splitlines():
        if line.startswith(('{"index', '{"first')):
            told |= json.loads(line)
    kept = set(told.pop("kept"))
    megabytes = size["bytes"] / 1e6
    row = {"name": name, "megabytes": megabytes, "documents": size["documents"], "kept": len(kept)} | told
    row |= {
        "mb_per_s_wall": megabytes / statistics.median(told["wall_s"]),
        "mb_per_s_cpu": megabytes / statistics.median(told["cpu_s"]),
    }
    if "first_stage_s" in told:
        row["first_stage_mb_per_s"] = megabytes / told["first_stage_s"]
    planted = json.loads((corpus / "planted.json").read_text())
    gone: dict[str, list[bool]] = {}
    for pair, jaccard in planted.items():
        nearest = min(LEVELS, key=lambda level: abs(level - jaccard))
        gone.setdefault(str(nearest), []).append(not set(pair.split()) <= kept)
    row["found"] = {level: sum(found) / len(found) for level, found in gone.items()}
    alike = [one for level, found in gone.items() if float(level) >= 0.8 for one in found]
    row["recall_from_08"] = sum(alike) / len(alike)
    lone = size["documents"] - 2 * len(planted)
    row["others_dropped"] = lone - len(kept - {name for pair in planted for name in pair.split()})
    return row


def table(rows: list[dict]) -> str:
    head = ["", "MB", "MB/s (wall)", "MB/s (CPU)", "peak MiB", *(f"J={level}" for level in LEVELS), "others dropped"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [
            row["name"],
            f"{row['megabytes']:.0f}",
            f"{row['mb_per_s_wall']:.2f}",
            f"{row['mb_per_s_cpu']:.2f}",
            f"{row['peak_mib']:.0f}",
        ]
        cells += [f"{row['found'][str(level)]:.3f}" for level in LEVELS] + [str(row["others_dropped"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=5)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slow-megabytes", type=float, help="another size for datatrove, which takes minutes for ten")
    parser.add_argument("--only", default=",".join(RUNNERS).replace("tokenmill, 1 round", "tokenmill@1"))
    parser.add_argument("--scale", help="sizes in MB: ours alone, one run each")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=list(RUNNERS), help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return run_alone(options.one, options.corpus, options.runs)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        if options.scale:
            plan = [("tokenmill", float(size), 1) for size in options.scale.split(",")]
        else:
            names = [name.replace("@1", ", 1 round") for name in options.only.split(",")]
            sizes = {"datatrove": options.slow_megabytes or options.megabytes}
            plan = [(name, sizes.get(name, options.megabytes), options.runs) for name in names]
        for name, megabytes, runs in plan:
            corpus = Path(scratch) / f"corpus-{megabytes}"
            if not corpus.exists():
                corpus.mkdir()
                make_corpus(corpus, megabytes)
            rows.append(measure(name, corpus, runs))
            print(json.dumps({k: v for k, v in rows[-1].items() if k != "found"}), file=sys.stderr)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
