"""Lines that a site puts on many of its pages: menus, notices, "read more". Off unless asked for; a page's own text stays.

The report has no line-level deduplication; RefinedWeb (Penedo et al. 2023, §G) and CCNet have. A line counts once a document,
and only within its site, so that a quotation or a licence that many sites carry is no boilerplate of any.

Map → reduce → apply. `count_lines` maps a corpus, or a group of its shards, to 24 bytes a distinct line; `find_boilerplate`
adds the groups up and names the lines that are too many; `strip_boilerplate` takes them out, in groups too. Alone it is all
three in one process, and its output is the same. Counts lie sorted in files and are merged a range of hashes at a time:
memory hangs on `MERGED_AT_ONCE` and on the largest shard, not on the corpus.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from urllib.parse import urlsplit

import numpy as np

from tokenmill.curation.columns import mapped
from tokenmill.curation.repeats_config import BoilerplateConfig
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.records import Record, read_jsonl
from tokenmill.steps import Drop, Keep, StepContext, step
from tokenmill.steps.files import scratch, store_file
from tokenmill.store import open_store

SECTION = "curation.strip_boilerplate"
LINE = np.dtype([("line", "<u8"), ("documents", "<u8"), ("times", "<u8")])
"""A line of a site, hashed; in how many documents it stands, and how often in all."""
MERGED_AT_ONCE = 4_000_000
"""`LINE` rows that are added up at a time."""


@step("curation.count_lines", version=1, section=SECTION, kinds={"corpus": "corpus"})
def count_lines(config: BoilerplateConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """In how many documents each line of a site stands: of a corpus, or of a group of its shards."""
    if not config.max_documents:
        return Draft(kind="lines", shards=(), counts={"records": 0})
    counted = list(ctx.parallel(CountLines(ctx.store.uri, config), corpus.shards, "lines"))
    return _stored(ctx, "lines", _added_up(_files(ctx, counted)))


@step("curation.find_boilerplate", version=1, section=SECTION, kinds={"lines": "lines"})
def find_boilerplate(config: BoilerplateConfig, lines: list[Manifest], ctx: StepContext) -> Draft:
    """The lines that stand in more than `max_documents` documents of one site, whatever groups they were counted in."""
    return _boilerplate(config, [shard for one in lines for shard in one.shards], ctx)


@step("curation.strip_boilerplate", version=3, kinds={"corpus": "corpus", "boilerplate": "boilerplate"})
def strip_boilerplate(
    config: BoilerplateConfig, corpus: Manifest, boilerplate: Manifest | None, ctx: StepContext
) -> Draft:
    """Take out lines that stand in more than `max_documents` documents of one site; 0 = take out nothing.

    With `boilerplate`, as `curation.find_boilerplate` found it, only take it out. A document that is changed says how many
    lines it lost (`stripped_lines`); one of which nothing is left is dropped.
    """
    if not config.max_documents:
        counts = {"in": corpus.counts["records"], "records": corpus.counts["records"], "dropped": 0, "rejected": 0}
        return Draft(kind="corpus", shards=corpus.shards, counts=counts, facts={"off": True})
    found = boilerplate or _boilerplate(config, count_lines(config, corpus, ctx).shards, ctx)
    return ctx.map_shards(corpus, Strip(ctx.store.uri, found.shards[0].blob, config))


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


# --- map -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CountLines:
    """Counts the lines of one shard, in a worker process; the file goes straight into the store."""

    store_uri: str
    config: BoilerplateConfig

    def __call__(self, shard: Shard) -> Shard:
        store = open_store(self.store_uri)
        documents, times = Counter[int](), Counter[int]()
        for record in read_jsonl(store.blob_path(shard.blob)):
            if record["type"] in self.config.types:
                keys = [key for _, key in line_hashes(record, self.config.min_characters) if key is not None]
                times.update(keys)
                documents.update(set(keys))
        rows = np.array([(key, documents[key], times[key]) for key in sorted(times)], LINE)
        with scratch() as folder:
            path = folder / "lines"
            rows.tofile(path)
            return store_file(store, path, f"{shard.name}.lines", len(rows))


# --- reduce ----------------------------------------------------------------------------------------------------------


def _boilerplate(config: BoilerplateConfig, lines: Sequence[Shard], ctx: StepContext) -> Draft:
    added = _added_up(_files(ctx, lines))
    found = _stored(ctx, "boilerplate", (rows[rows["documents"] > config.max_documents] for rows in added), "line")
    ctx.log.info("boilerplate", **found.counts)
    return found


def _files(ctx: StepContext, lines: Sequence[Shard]) -> list[np.ndarray]:
    return [mapped(ctx.store.blob_path(shard.blob), LINE) for shard in lines]


def _added_up(files: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """One row a line, in the order of the hashes, a range of these at a time."""
    parts = max(1, -(-sum(map(len, files)) // MERGED_AT_ONCE))
    edges = [part * 2**64 // parts for part in range(parts)]
    cuts = [[*(bisect_left(file["line"], edge, key=int) for edge in edges), len(file)] for file in files]
    for part in range(parts):
        ranges = [file[cut[part] : cut[part + 1]] for file, cut in zip(files, cuts, strict=True)]
        rows = np.concatenate([np.empty(0, LINE), *ranges])
        rows = rows[np.argsort(rows["line"])]
        firsts = np.flatnonzero(np.diff(rows["line"], prepend=~rows["line"][:1]))
        added = rows[firsts]
        for count in ("documents", "times"):
            added[count] = np.add.reduceat(rows[count], firsts) if len(firsts) else 0
        yield added


def _stored(ctx: StepContext, kind: str, ranges: Iterator[np.ndarray], column: str | None = None) -> Draft:
    """`LINE` rows, or one column of them, as an artifact of one file."""
    path, counts = ctx.workdir / kind, Counter[str]()
    with path.open("wb") as file:
        for rows in ranges:
            file.write((rows[column] if column else rows).tobytes())
            counts.update(records=len(rows), times=int(rows["times"].sum()))
    return Draft(kind=kind, shards=(store_file(ctx.store, path, kind, counts["records"]),), counts=dict(counts))


# --- apply -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strip:
    """Takes the boilerplate out of a record."""

    store_uri: str
    blob: str
    config: BoilerplateConfig

    def __call__(self, record: Record) -> Record | Keep | Drop:
        if record["type"] not in self.config.types:
            return record
        boilerplate = _lines(self.store_uri, self.blob)
        lines = line_hashes(record, self.config.min_characters)
        kept = [line for line, key in lines if key is None or not _holds(boilerplate, key)]
        if len(kept) == len(lines):
            return record
        text = "\n".join(kept).strip("\n")
        if not text.strip():
            return Drop("only_boilerplate", record, value=len(lines) - len(kept), threshold=self.config.max_documents)
        return record | {"text": text, "stripped_lines": len(lines) - len(kept)}


@lru_cache(maxsize=1)
def _lines(store_uri: str, blob: str) -> np.ndarray:
    """Hashes of the lines that go, sorted, where they lie."""
    return mapped(open_store(store_uri).blob_path(blob), LINE["line"])


def _holds(boilerplate: np.ndarray, key: int) -> bool:
    at = int(np.searchsorted(boilerplate, np.uint64(key)))
    return at < len(boilerplate) and int(boilerplate[at]) == key
