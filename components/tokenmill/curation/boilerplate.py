"""Lines that a site puts on many of its pages: menus, notices, "read more". Off unless asked for; a page's own text stays.

The report has no line-level deduplication; RefinedWeb (Penedo et al. 2023, §G) and CCNet have. A line counts once a document,
and only within its site, so that a quotation or a licence that many sites carry is no boilerplate of any. Each shard's counts
lie in a sorted file of 24 bytes a distinct line, and are merged a range of hashes at a time: memory hangs on
`MERGED_AT_ONCE`, not on the corpus.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from tokenmill.curation.repeats_config import BoilerplateConfig
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.records import Record, read_jsonl
from tokenmill.steps import Drop, Keep, StepContext, step
from tokenmill.store import open_store

LINE = np.dtype([("line", "<u8"), ("documents", "<u8"), ("times", "<u8")])
"""A line of a site, hashed; in how many documents it stands, and how often in all."""
MERGED_AT_ONCE = 8_000_000


@step("curation.strip_boilerplate", version=2, kinds={"corpus": "corpus"})
def strip_boilerplate(config: BoilerplateConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """Take out lines that stand in more than `max_documents` documents of one site; 0 = take out nothing.

    A document that is changed says how many lines it lost (`stripped_lines`); one of which nothing is left is dropped.
    """
    if not config.max_documents:
        counts = {"in": corpus.counts["records"], "records": corpus.counts["records"], "dropped": 0, "rejected": 0}
        return Draft(kind="corpus", shards=corpus.shards, counts=counts, facts={"off": True})
    jobs = [
        _CountJob(ctx.store.uri, shard, config, ctx.workdir / f"lines-{n:08d}") for n, shard in enumerate(corpus.shards)
    ]
    common = np.concatenate(list(_common_lines(list(ctx.parallel(_count_lines, jobs, "lines")), config.max_documents)))
    path = ctx.workdir / "boilerplate"
    path.write_bytes(common["line"].tobytes())
    ctx.log.info("boilerplate", lines=len(common), times=int(common["times"].sum()))
    draft = ctx.map_shards(corpus, Strip(path, config))
    told = {"boilerplate_lines": len(common), "lines_removed": int(common["times"].sum())}
    return draft.model_copy(update={"counts": draft.counts | told})


def site(record: Record) -> str:
    """Where a document is from: its host, or its source where it has no address."""
    return urlsplit(record.get("url") or "").hostname or record["source"]


def line_hashes(record: Record, min_characters: int) -> list[tuple[str, int | None]]:
    """The lines of a document, each with its hash; none for lines too short to be told from formatting."""
    place = blake2b(site(record).encode(), digest_size=16).digest()
    return [(line, _hash(line.strip(), place, min_characters)) for line in record["text"].split("\n")]


def _hash(line: str, place: bytes, min_characters: int) -> int | None:
    if len(line) < min_characters:
        return None
    digest = blake2b(line.encode("utf-8", "surrogatepass"), digest_size=8, key=place).digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True)
class Strip:
    """Takes the common lines out of a record."""

    path: Path
    config: BoilerplateConfig

    def __call__(self, record: Record) -> Record | Keep | Drop:
        if record["type"] not in self.config.types:
            return record
        common = _common(self.path)
        lines = line_hashes(record, self.config.min_characters)
        kept = [line for line, key in lines if key is None or not _holds(common, key)]
        if len(kept) == len(lines):
            return record
        text = "\n".join(kept).strip("\n")
        if not text.strip():
            return Drop("only_boilerplate", record, value=len(lines) - len(kept), threshold=self.config.max_documents)
        return record | {"text": text, "stripped_lines": len(lines) - len(kept)}


@lru_cache(maxsize=1)
def _common(path: Path) -> np.ndarray:
    return np.fromfile(path, np.uint64)


def _holds(common: np.ndarray, key: int) -> bool:
    at = int(np.searchsorted(common, np.uint64(key)))
    return at < len(common) and int(common[at]) == key


# --- counting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CountJob:
    store_uri: str
    shard: Shard
    config: BoilerplateConfig
    path: Path


def _count_lines(job: _CountJob) -> Path:
    """The counts of one shard, sorted by hash, in a file."""
    documents: Counter[int] = Counter()
    times: Counter[int] = Counter()
    for record in read_jsonl(open_store(job.store_uri).blob_path(job.shard.blob)):
        if record["type"] in job.config.types:
            keys = [key for _, key in line_hashes(record, job.config.min_characters) if key is not None]
            times.update(keys)
            documents.update(set(keys))
    counts = np.empty(len(times), LINE)
    for row, key in enumerate(sorted(times)):
        counts[row] = key, documents[key], times[key]
    counts.tofile(job.path)
    return job.path


def _common_lines(paths: list[Path], max_documents: int) -> Iterator[np.ndarray]:
    """`LINE` rows above the limit, in the order of their hashes, a range of these at a time."""
    files = [np.memmap(path, LINE, "r") for path in paths if path.stat().st_size]
    parts = max(1, -(-sum(map(len, files)) // MERGED_AT_ONCE))
    edges = [part * 2**64 // parts for part in range(parts)]
    starts = [[int(np.searchsorted(file["line"], np.uint64(edge))) for edge in edges] + [len(file)] for file in files]
    for part in range(parts):
        ranges = [file[start[part] : start[part + 1]] for file, start in zip(files, starts, strict=True)]
        rows = np.concatenate(ranges) if ranges else np.empty(0, LINE)
        lines, place = np.unique(rows["line"], return_inverse=True)
        merged = np.zeros(len(lines), LINE)
        merged["line"] = lines
        np.add.at(merged["documents"], place, rows["documents"])
        np.add.at(merged["times"], place, rows["times"])
        yield merged[merged["documents"] > max_documents]
