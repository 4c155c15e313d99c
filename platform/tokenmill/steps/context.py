"""What a running step is given: its inputs' records, shard by shard and in parallel, and ways to write artifacts.

A step that opens files, counts by hand or talks to MLflow is doing the platform's work.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from tokenmill.errors import InputError
from tokenmill.logs import Log
from tokenmill.manifest import Draft, Manifest, Shard, sha256
from tokenmill.progress import Bar, progress
from tokenmill.records import JSONL, Record, read_jsonl
from tokenmill.steps.files import materialise, store_file, store_records
from tokenmill.steps.outcomes import Outcome
from tokenmill.steps.partitions import SHARD_RECORDS, Partitions, PartJob, by_type_and_language, sift_part
from tokenmill.steps.pool import WorkerPool
from tokenmill.steps.shards import ShardJob, sift_shard
from tokenmill.steps.tally import Tally
from tokenmill.store import ArtifactStore, Lease
from tokenmill.telemetry import Board
from tokenmill.tracking import EventLog, RunRef

Item = TypeVar("Item")
Result = TypeVar("Result")
SHOWN_EVERY = 1_000
"""Records of a stream between two looks that Prometheus may take at them."""


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
    _gone_through: Tally = field(default_factory=Tally)
    """Counts of the corpora that this step is done with: it may go through several, a group of shards at a time."""

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
        jobs = [ShardJob(self.store.uri, shard, function, self._marker(shard)) for shard in corpus.shards]
        tally = Tally()
        for sifted in self.parallel(sift_shard, jobs, "shards"):
            tally.add(sifted)
            self._show(tally)
        self._gone_through.add_counts(tally)
        return tally.draft(self.name, kind, max_rejected, may_be_empty or self.part)

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
        for outcome in outcomes:
            partitions.add(outcome)
            if not partitions.tally.records % SHOWN_EVERY:
                self._show(partitions.tally)
        self._show(partitions.tally)
        self._gone_through.add_counts(partitions.tally)
        return partitions.close().draft(self.name, kind, max_rejected, self.part)

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
        for part in self.parallel(sift_part, jobs, what):
            partitions.take(part)
            self._show(partitions.tally)
        self._gone_through.add_counts(partitions.tally)
        return partitions.close().draft(self.name, kind, max_rejected, self.part)

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
        written = [store_records(self.store, self.workdir, name, rows) for name, rows in shards.items()]
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

    def _show(self, tally: Tally) -> None:
        """Tell Prometheus of a corpus that the step is going through, and of those before."""
        if self.board:
            shown = Tally()
            shown.add_counts(self._gone_through)
            shown.add_counts(tally)
            shown.show(self.board)

    def _marker(self, shard: Shard) -> str | None:
        return self._work_key("shards", f"{sha256(shard.name.encode())[:16]}-{shard.content}")

    def _work_key(self, area: str, name: str) -> str | None:
        """Where a marker of this action lies: no other key reads it, and collection spares the blobs it mentions."""
        return f"work/{self.key}/{area}/{name}.json" if self.key else None


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
