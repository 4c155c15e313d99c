"""What a running step is given: its inputs' records, shard by shard and in parallel, and ways to write artifacts.

A step that opens files, counts by hand or talks to MLflow is doing the platform's work.
"""

import errno
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from tokenmill.errors import CorruptError, InputError, StoreError
from tokenmill.logs import Log
from tokenmill.manifest import Draft, Manifest, Shard, sha256
from tokenmill.progress import Bar, progress
from tokenmill.records import (
    JSONL,
    Record,
    content_digest,
    line_of,
    read_jsonl,
    read_lines_and_records,
    write_jsonl,
)
from tokenmill.steps.outcomes import Drop, Keep, Outcome, Reject
from tokenmill.steps.partitions import (
    SHARD_RECORDS,
    OpenShard,
    Partitions,
    PartJob,
    Tally,
    by_type_and_language,
    short,
    sift_part,
)
from tokenmill.steps.pool import WorkerPool
from tokenmill.store import ArtifactStore, Lease, open_store
from tokenmill.telemetry import Board
from tokenmill.tracking import EventLog, RunRef

Item = TypeVar("Item")
Result = TypeVar("Result")
_REJECTED = "rejected:"
"""Before the reasons of what was no record, among those of what was dropped."""
SHOWN_EVERY = 1_000
"""Records of a stream after which Prometheus is told what became of them."""


@dataclass
class StepContext:
    """One attempt at a step's work."""

    store: ArtifactStore
    workdir: Path
    run: RunRef
    events: EventLog
    log: Log
    name: str
    config: Any
    workers: WorkerPool
    key: str = ""
    """Action key; empty for an effect."""
    lease: Lease | None = None
    part: bool = False
    """The inputs are one group of several: nothing may be left of them. What is left of all, whoever merges them judges."""
    board: Board | None = None
    """What Prometheus reads of this step while it works."""
    _inputs: dict[str, Path] = field(default_factory=dict)
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(Outcome, reason) → records that the step has gone through."""

    # ---- reading -------------------------------------------------------------------------------------------------

    def records(self, manifest: Draft, shard: Shard | None = None) -> Iterator[Record]:
        """Records of a JSONL.zst artifact, in shard order, verified as stored."""
        for one in (shard,) if shard else manifest.shards:
            if one.name.endswith(JSONL):
                yield from read_jsonl(self.store.blob_path(one.blob))

    def files(self, manifest: Manifest) -> Path:
        """A folder that holds an artifact's files under their own names. Read-only by agreement."""
        if manifest.digest not in self._inputs:
            folder = self.workdir / "inputs" / manifest.digest[:16]
            materialise(self.store, manifest, folder)
            self._inputs[manifest.digest] = folder
        return self._inputs[manifest.digest]

    # ---- working -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `LeaseLost` if another attempt took the work over."""
        if self.lease:
            self.lease.check()

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Any]:
        with progress(total, f"{self.name} {what}") as bar:
            yield _Watched(bar, self.board, total, what) if self.board else bar

    def parallel(self, function: Callable[[Item], Result], items: Iterable[Item], what: str = "") -> Iterator[Result]:
        """`map` over `execution.workers` processes, this one among them, in order, with progress.

        The others join in once the work has shown that it is worth it. `function` and items are pickled; worker
        processes import their modules, never the running script.
        """
        todo = list(items)
        with self.progress(len(todo), what) as bar:
            self.check()
            for result in self.workers.map(function, todo):
                self.check()
                yield result
                bar.advance()

    def map_shards(
        self,
        corpus: Manifest,
        function: Callable[[Record], Outcome | Record],
        *,
        kind: str = "corpus",
        max_rejected: float = 0.01,
        may_be_empty: bool = False,
    ) -> Draft:
        """Apply `function` to every record, shard by shard; keep, drop with a reason, or reject.

        A function that changes a record gives a new one: the same record is written as it was read.

        Finished shards are markers: an attempt that was killed goes on from the first unfinished one. The sum
        kept + dropped + rejected = in is asserted; more than `max_rejected` of unusable records stops the step, and
        so does a corpus of which nothing is left, unless it is a part that `may_be_empty`.
        """
        jobs = [_ShardJob(self.store.uri, shard, function, self._marker(shard)) for shard in corpus.shards]
        results = list[_Sifted]()
        for sifted in self.parallel(_sift_shard, jobs, "shards"):
            results.append(sifted)
            self._show({"": sifted.kept.records if sifted.kept else 0} | sifted.reasons)
        return _assemble(self.name, kind, results, max_rejected, may_be_empty or self.part)

    def partition(
        self,
        outcomes: Iterable[Outcome],
        *,
        kind: str = "corpus",
        by: Callable[[Record], str] = by_type_and_language,
        max_rejected: float = 0.01,
        shard_records: int = SHARD_RECORDS,
    ) -> Draft:
        """Write a stream of outcomes as shards, partitioned by `by`, each of at most `shard_records` records.

        A partition's records keep their order; drops and rejects are set aside with their reasons. Memory holds one
        record at a time.
        """
        partitions = Partitions(self.store, self.workdir, by, shard_records)
        became = Counter[str]()
        for number, outcome in enumerate(outcomes, 1):
            became[partitions.add(outcome)] += 1
            if number % SHOWN_EVERY == 0:
                self._show(became)
                became.clear()
        self._show(became)
        return _assemble(self.name, kind, _sifted(partitions.close()), max_rejected, self.part)

    def partition_parts(
        self,
        function: Callable[[Item], Iterable[Outcome]],
        parts: Mapping[str, Item],
        *,
        what: str = "parts",
        kind: str = "corpus",
        by: Callable[[Record], str] = by_type_and_language,
        max_rejected: float = 0.01,
        shard_records: int = SHARD_RECORDS,
    ) -> Draft:
        """`partition` of what `function` yields for each part, in worker processes; the bytes are those of one.

        A part is what one worker does at a stretch, streamed to shards of its own. Finished parts are markers under
        their names: an attempt that was killed goes on from the first unfinished one. `function`, `by` and the parts
        are pickled.
        """
        jobs = [
            PartJob(self.store, item, function, by, shard_records, self._work_key("parts", name))
            for name, item in parts.items()
        ]
        partitions = Partitions(self.store, self.workdir, by, shard_records)
        for part in self.parallel(_sift_part, jobs, what):
            partitions.take(part)
            self._show({"": part.records - sum(part.reasons.values())} | part.reasons)
        return _assemble(self.name, kind, _sifted(partitions.close()), max_rejected, self.part)

    # ---- writing -------------------------------------------------------------------------------------------------

    def write_records(
        self,
        kind: str,
        shards: dict[str, Iterable[Record]],
        *,
        counts: dict[str, int] | None = None,
        dropped: dict[str, int] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> Draft:
        """Store record streams as JSONL.zst shards under the given names."""
        written = [_store_records(self.store, self.workdir, name, rows) for name, rows in shards.items()]
        counts = {"records": sum(s.records for s in written)} | (counts or {})
        return Draft(kind=kind, shards=tuple(written), counts=counts, dropped=dropped or {}, facts=facts or {})

    def write_files(
        self, kind: str, folder: Path, *, counts: dict[str, int] | None = None, facts: dict[str, Any] | None = None
    ) -> Draft:
        """Store every file of a folder, one shard each, named by its path in the folder."""
        shards = [
            store_file(self.store, path, path.relative_to(folder).as_posix())
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        if not shards:
            raise InputError(f"{self.name}: nothing was written into {folder}")
        return Draft(kind=kind, shards=tuple(shards), counts=counts or {}, facts=facts or {})

    def write_json(self, kind: str, name: str, value: Any, *, counts: dict[str, int] | None = None) -> Draft:
        """Store one JSON document as an artifact."""
        folder = self.workdir / f"json-{kind}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
        return self.write_files(kind, folder, counts=counts)

    def read_json(self, manifest: Manifest, name: str) -> Any:
        """A JSON document that an artifact holds."""
        return orjson.loads(self.store.bytes_of(manifest.shard(name)))

    # ---- telling -------------------------------------------------------------------------------------------------

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self.events.metrics({name: value}, step)

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self.events.metrics(values, step)

    def _show(self, became: Mapping[str, int]) -> None:
        """Count records among those that the step has gone through: reason → how many; without one they were kept."""
        for reason, records in became.items():
            outcome = "rejected" if reason.startswith(_REJECTED) else "dropped" if reason else "kept"
            self._seen[outcome, reason.removeprefix(_REJECTED)] += records
        if self.board:
            for (outcome, reason), records in self._seen.items():
                self.board.set("tokenmill_step_records", records, outcome=outcome, reason=reason)

    def _marker(self, shard: Shard) -> str | None:
        return self._work_key("shards", f"{sha256(shard.name.encode())[:16]}-{shard.content}")

    def _work_key(self, area: str, name: str) -> str | None:
        """Where a marker of this action lies: no other key reads it, and collection spares the blobs it mentions."""
        return f"work/{self.key}/{area}/{name}.json" if self.key else None


def store_file(store: ArtifactStore, path: Path, name: str, records: int = 0) -> Shard:
    """Store a file as one shard of an artifact."""
    content = content_digest(path)
    blob, size = store.put_blob(path)
    return Shard(name=name, blob=blob, content=content, size=size, records=records)


def materialise(store: ArtifactStore, manifest: Manifest, folder: Path) -> Path:
    """Lay an artifact's files into `folder` under their own names, each as the manifest's digest covers it."""
    for shard in manifest.shards:
        target = folder / shard.name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise CorruptError(f"{manifest.kind} {manifest.digest[:12]}: file name {shard.name!r} leaves its folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store.path_of(shard), target)
    return folder


# ---- one shard, in a worker process ------------------------------------------------------------------------------


@dataclass
class _Sifted:
    """What became of one shard's records."""

    kept: Shard | None = None
    aside: tuple[Shard, ...] = ()
    records: int = 0
    """Records read, counted where they come in: what was kept, dropped and rejected must add up to it."""
    reasons: dict[str, int] = field(default_factory=dict)
    rejected: int = 0
    first_reject: str = ""

    @property
    def shards(self) -> tuple[Shard, ...]:
        return (*((self.kept,) if self.kept else ()), *self.aside)

    def to_json(self) -> bytes:
        shards = {"kept": self.kept and self.kept.model_dump(), "aside": [s.model_dump() for s in self.aside]}
        return orjson.dumps(vars(self) | shards)

    @classmethod
    def from_json(cls, data: bytes) -> "_Sifted":
        fields = orjson.loads(data)
        fields["kept"] = fields["kept"] and Shard(**fields["kept"])
        fields["aside"] = tuple(Shard(**s) for s in fields["aside"])
        return cls(**fields)


@dataclass
class _ShardJob:
    store_uri: str
    shard: Shard
    function: Callable[[Record], Outcome | Record]
    marker: str | None


class _Aside:
    """Collects what is dropped and rejected, with reasons."""

    def __init__(self) -> None:
        self.dropped: list[Record] = []
        self.rejected: list[Record] = []

    def add(self, outcome: Drop | Reject) -> None:
        if isinstance(outcome, Drop):
            why = {"reason": outcome.reason, "value": outcome.value, "threshold": outcome.threshold}
            self.dropped.append(outcome.record | {"dropped": why})
        else:
            self.rejected.append({"reason": outcome.reason, "where": outcome.where})

    def store(self, store: ArtifactStore, workdir: Path, name: str) -> _Sifted:
        reasons = Counter(r["dropped"]["reason"] for r in self.dropped)
        reasons.update(f"{_REJECTED}{short(r['reason'])}" for r in self.rejected)
        shards = [
            _store_records(store, workdir, f"{folder}/{name}", rows)
            for folder, rows in (("dropped", self.dropped), ("rejected", self.rejected))
            if rows
        ]
        first = f"{self.rejected[0]['where']}: {self.rejected[0]['reason']}" if self.rejected else ""
        return _Sifted(aside=tuple(shards), reasons=dict(reasons), rejected=len(self.rejected), first_reject=first)


def _sift_shard(job: _ShardJob) -> _Sifted:
    store = open_store(job.store_uri)
    if job.marker and store.backend.exists(job.marker):
        done = _Sifted.from_json(store.backend.get(job.marker))
        if not store.missing(done.shards):
            return done
    aside, read = _Aside(), 0
    with scratch() as workdir:
        kept = OpenShard(job.shard.name, workdir / "shards" / job.shard.name)
        with kept.lines:
            for line, record in read_lines_and_records(store.blob_path(job.shard.blob)):
                read += 1
                outcome = job.function(record)
                if isinstance(outcome, Drop | Reject):
                    aside.add(outcome)
                else:
                    after = outcome.record if isinstance(outcome, Keep) else outcome
                    kept.lines.write(line if after is record else line_of(after))
        sifted = aside.store(store, workdir, job.shard.name)
        sifted.kept = kept.store(store) if kept.lines.count else None
    sifted.records = read
    if job.marker:
        store.backend.put(job.marker, sifted.to_json())
    return sifted


@dataclass
class _Watched:
    """A progress bar that Prometheus sees too."""

    bar: Bar
    board: Board
    total: float
    what: str
    done: float = 0.0

    def advance(self, amount: float = 1) -> None:
        self.bar.advance(amount)
        self.done += amount
        self.board.set("tokenmill_step_progress_ratio", self.done / max(self.total, 1), work=self.what)


def _sift_part(job: PartJob) -> Tally:
    return sift_part(job, scratch)


def _sifted(tally: Tally) -> list[_Sifted]:
    """A tally as what `_assemble` takes: one entry a shard, and one with the counts."""
    aside = tuple(s for shards in tally.aside.values() for s in shards)
    counts = _Sifted(None, aside, tally.records, tally.reasons, tally.rejected, tally.first_reject)
    return [*(_Sifted(kept=shard) for shards in tally.kept.values() for shard in shards), counts]


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder that is gone afterwards. What a killed step leaves in one is never read again.

    Raises:
        StoreError: the disk that it lies on is full.
    """
    with tempfile.TemporaryDirectory(prefix="tokenmill-", ignore_cleanup_errors=True) as folder:
        try:
            yield Path(folder)
        except OSError as failure:
            if failure.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StoreError(
                f"{tempfile.gettempdir()} is full: free space there or set TMPDIR, then run again"
            ) from None


def _store_records(store: ArtifactStore, workdir: Path, name: str, rows: Iterable[Record]) -> Shard:
    path = workdir / "shards" / name
    content, count = write_jsonl(path, rows)
    blob, size = store.put_blob(path)
    path.unlink()
    return Shard(name=name, blob=blob, content=content, size=size, records=count)


def _assemble(step: str, kind: str, results: list[_Sifted], max_rejected: float, may_be_empty: bool = False) -> Draft:
    shards = tuple(r.kept for r in results if r.kept)
    reasons: Counter[str] = Counter()
    for result in results:
        reasons.update(result.reasons)
    kept, dropped = sum(s.records for s in shards), sum(reasons.values())
    rejected = sum(r.rejected for r in results)
    read = sum(r.records for r in results)
    if read != kept + dropped:
        raise AssertionError(f"{step}: {read} records in, but {kept} kept + {dropped} dropped or rejected")
    if rejected > max_rejected * read:
        first = next(r.first_reject for r in results if r.first_reject)
        raise InputError(
            f"{first}. {rejected} of {read} records set aside; the step stops above {max_rejected:.0%} "
            f"({step}.max_rejected). Mend the records, or raise the limit."
        )
    if not shards and not may_be_empty:
        raise InputError(
            f"{step}: no record left of {read}; dropped: {dict(reasons.most_common(5)) or 'none was read'}"
        )
    return Draft(
        kind=kind,
        shards=tuple(sorted(shards, key=lambda s: s.name)),
        counts={"in": read, "records": kept, "dropped": dropped - rejected, "rejected": rejected},
        dropped=dict(sorted(reasons.items())),
        aside=tuple(sorted((s for r in results for s in r.aside), key=lambda s: s.name)),
    )
