"""Streams of outcomes to shards, with bounded memory: one open file a partition, whatever passes through it.

Shard boundaries follow from the records and their order alone. Where parts of the work run in processes of their own, each
leaves its lines in shards of its own (a spool), and these are joined in the order of the parts: the bytes are those of one
process that does it all.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tokenmill.manifest import Shard
from tokenmill.records import JSONL, LineWriter, Record, line_of, read_lines
from tokenmill.steps.outcomes import Drop, Keep, Outcome
from tokenmill.store import ArtifactStore

SHARD_RECORDS = 5_000
"""Records a written shard; boundaries depend on the data alone, never on the number of workers."""
_DROPPED, _REJECTED = "dropped", "rejected"


def by_type_and_language(record: Record) -> str:
    """The partition that a document belongs to: `type=<type>/lang=<lang>`."""
    return f"type={record['type']}/lang={record['lang']}"


def short(reason: str) -> str:
    """A reject's reason without its particulars, to count by."""
    return re.split(r"[(:]", reason, maxsplit=1)[0].strip()


@dataclass
class Tally:
    """What became of a stream of records, and where it lies."""

    kept: dict[str, list[Shard]] = field(default_factory=dict)
    """Partition → its shards, in order."""
    aside: dict[str, list[Shard]] = field(default_factory=dict)
    """`dropped` and `rejected` → their shards, in order."""
    records: int = 0
    """Records read, counted where they come in: what was kept, dropped and rejected must add up to it."""
    reasons: dict[str, int] = field(default_factory=dict)
    rejected: int = 0
    first_reject: str = ""

    @property
    def shards(self) -> list[Shard]:
        return [shard for group in (self.kept, self.aside) for shards in group.values() for shard in shards]

    def add(self, other: "Tally") -> None:
        """Take over the counts of a part (its lines go by `Partitions.take`)."""
        self.records += other.records
        self.rejected += other.rejected
        self.first_reject = self.first_reject or other.first_reject
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count

    def to_json(self) -> bytes:
        def plain(group: dict[str, list[Shard]]) -> dict[str, list[dict[str, Any]]]:
            return {name: [shard.model_dump() for shard in shards] for name, shards in group.items()}

        return orjson.dumps(vars(self) | {"kept": plain(self.kept), "aside": plain(self.aside)})

    @classmethod
    def from_json(cls, data: bytes) -> "Tally":
        fields = orjson.loads(data)
        for group in ("kept", "aside"):
            fields[group] = {name: [Shard(**s) for s in shards] for name, shards in fields[group].items()}
        return cls(**fields)


class Partitions:
    """Takes outcomes, or the shards of parts that took them; writes shards of at most `shard_records` records each."""

    def __init__(
        self,
        store: ArtifactStore,
        workdir: Path,
        by: Callable[[Record], str] = by_type_and_language,
        shard_records: int = SHARD_RECORDS,
    ):
        self._store, self._workdir, self._by, self._shard_records = store, workdir, by, shard_records
        self._series: dict[str, _Series] = {}
        self.tally = Tally()
        self._reasons: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> str:
        """Write one outcome: a kept record to its partition, the others to what is set aside; gives their reason."""
        self.tally.records += 1
        if isinstance(outcome, Keep):
            self._write(self._by(outcome.record), outcome.record)
            return ""
        if isinstance(outcome, Drop):
            why = {"reason": outcome.reason, "value": outcome.value, "threshold": outcome.threshold}
            self._write(_DROPPED, outcome.record | {"dropped": why})
            reason = outcome.reason
        else:
            self._write(_REJECTED, {"reason": outcome.reason, "where": outcome.where})
            reason = f"{_REJECTED}:{short(outcome.reason)}"
            self.tally.rejected += 1
            self.tally.first_reject = self.tally.first_reject or f"{outcome.where}: {outcome.reason}"
        self._reasons[reason] += 1
        return reason

    def take(self, part: Tally) -> None:
        """Append the lines of a part, as they are, and its counts."""
        for group in (part.kept, part.aside):
            for name in sorted(group):
                for shard in group[name]:
                    for line in read_lines(self._store.blob_path(shard.blob)):
                        self._line(name, line)
        self.tally.add(part)

    def close(self) -> Tally:
        """Finish every shard; says what there is."""
        for name, series in sorted(self._series.items()):
            group = self.tally.aside if name in (_DROPPED, _REJECTED) else self.tally.kept
            group[name] = series.close()
        for reason, count in self._reasons.items():
            self.tally.reasons[reason] = self.tally.reasons.get(reason, 0) + count
        return self.tally

    def _write(self, name: str, record: Record) -> None:
        self._line(name, line_of(record))

    def _line(self, name: str, line: bytes) -> None:
        if name not in self._series:
            self._series[name] = _Series(self._store, self._workdir / "shards", name, self._shard_records)
        self._series[name].write(line)


class _Series:
    """The numbered shards of one partition; only the last one is open."""

    def __init__(self, store: ArtifactStore, folder: Path, partition: str, shard_records: int):
        self._store, self._folder, self._partition, self._shard_records = store, folder, partition, shard_records
        self._done: list[Shard] = []
        self._open: OpenShard | None = None

    def write(self, line: bytes) -> None:
        if self._open is None:
            name = f"{self._partition}/part-{len(self._done):05d}{JSONL}"
            self._open = OpenShard(name, self._folder / name)
        self._open.lines.write(line)
        if self._open.lines.count >= self._shard_records:
            self._finish()

    def close(self) -> list[Shard]:
        if self._open:
            self._finish()
        return self._done

    def _finish(self) -> None:
        assert self._open
        self._done.append(self._open.store(self._store))
        self._open = None


class OpenShard:
    """A shard that lines are being written to."""

    def __init__(self, name: str, path: Path):
        self.name, self.path, self.lines = name, path, LineWriter(path)

    def store(self, store: ArtifactStore) -> Shard:
        self.lines.close()
        blob, size = store.put_blob(self.path)
        self.path.unlink()
        return Shard(name=self.name, blob=blob, content=self.lines.digest, size=size, records=self.lines.count)


# ---- one part, in a worker process ---------------------------------------------------------------------------------


@dataclass
class PartJob:
    """What a worker needs for one part: `function(item)` yields its outcomes; `marker` is where its tally is kept."""

    store: ArtifactStore
    item: Any
    function: Callable[[Any], Iterable[Outcome]]
    by: Callable[[Record], str]
    shard_records: int
    marker: str | None


def sift_part(job: PartJob, scratch: Callable[[], Any]) -> Tally:
    """Do one part, unless its marker says that an attempt before this one did it and what it wrote is still there."""
    store = job.store
    if job.marker and store.backend.exists(job.marker):
        done = Tally.from_json(store.backend.get(job.marker))
        if not store.missing(done.shards):
            return done
    with scratch() as workdir:
        parts = Partitions(store, workdir, job.by, job.shard_records)
        for outcome in job.function(job.item):
            parts.add(outcome)
        tally = parts.close()
    if job.marker:
        store.backend.put(job.marker, tally.to_json())
    return tally
