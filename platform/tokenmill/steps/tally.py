"""What became of a stream of records: counted where they come in, and where they lie."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import orjson

from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Shard
from tokenmill.steps.outcomes import Drop, Outcome, Reject, short
from tokenmill.telemetry import Board

DROPPED, REJECTED = "dropped", "rejected"
"""Folders of what is set aside; the second also stands before the reasons of what was no record."""


@dataclass
class Tally:
    """What became of a stream of records, and where it lies."""

    kept: dict[str, list[Shard]] = field(default_factory=dict)
    """Partition → its shards, in order."""
    aside: dict[str, list[Shard]] = field(default_factory=dict)
    """`dropped` and `rejected` → their shards, in order."""
    records: int = 0
    """Records read, counted where they come in: what was kept, dropped and rejected must add up to it."""
    reasons: Counter[str] = field(default_factory=Counter)
    rejected: int = 0
    first_reject: str = ""

    @property
    def shards(self) -> list[Shard]:
        return [shard for group in (self.kept, self.aside) for shards in group.values() for shard in shards]

    def count(self, outcome: Outcome) -> None:
        """Count one record that came in, and what became of it."""
        self.records += 1
        if isinstance(outcome, Drop):
            self.reasons[outcome.reason] += 1
        elif isinstance(outcome, Reject):
            self.reasons[f"{REJECTED}:{short(outcome.reason)}"] += 1
            self.rejected += 1
            self.first_reject = self.first_reject or f"{outcome.where}: {outcome.reason}"

    def add_counts(self, other: "Tally") -> None:
        self.records += other.records
        self.rejected += other.rejected
        self.first_reject = self.first_reject or other.first_reject
        self.reasons.update(other.reasons)

    def add(self, other: "Tally") -> None:
        """Take over the counts of a part, and its shards."""
        self.add_counts(other)
        for mine, theirs in ((self.kept, other.kept), (self.aside, other.aside)):
            for name, shards in theirs.items():
                mine.setdefault(name, []).extend(shards)

    def show(self, board: Board) -> None:
        """Tell Prometheus of the records that have come in so far, by what became of them."""
        kept = self.records - self.reasons.total()
        board.set("tokenmill_step_records", kept, outcome="kept", reason="")
        for reason, records in self.reasons.items():
            outcome = REJECTED if reason.startswith(f"{REJECTED}:") else DROPPED
            reason = reason.removeprefix(f"{REJECTED}:")
            board.set("tokenmill_step_records", records, outcome=outcome, reason=reason)

    def draft(self, step: str, kind: str, max_rejected: float, may_be_empty: bool) -> Draft:
        """The artifact that the step makes of it.

        Raises:
            InputError: too many unusable records, or nothing left.
        """
        shards = [shard for shards in self.kept.values() for shard in shards]
        kept, dropped = sum(s.records for s in shards), self.reasons.total()
        if self.records != kept + dropped:
            raise AssertionError(f"{step}: {self.records} records in, but {kept} kept + {dropped} dropped or rejected")
        if self.rejected > max_rejected * self.records:
            raise InputError(
                f"{self.first_reject}. {self.rejected} of {self.records} records set aside; the step stops above "
                f"{max_rejected:.0%} ({step}.max_rejected). Mend the records, or raise the limit."
            )
        if not shards and not may_be_empty:
            most = dict(self.reasons.most_common(5))
            raise InputError(f"{step}: no record left of {self.records}; dropped: {most or 'none was read'}")
        aside = [shard for shards in self.aside.values() for shard in shards]
        return Draft(
            kind=kind,
            shards=tuple(sorted(shards, key=lambda s: s.name)),
            counts={"in": self.records, "records": kept, "dropped": dropped - self.rejected, "rejected": self.rejected},
            dropped=dict(sorted(self.reasons.items())),
            aside=tuple(sorted(aside, key=lambda s: s.name)),
        )

    def to_json(self) -> bytes:
        def plain(group: dict[str, list[Shard]]) -> dict[str, list[dict[str, Any]]]:
            return {name: [shard.model_dump() for shard in shards] for name, shards in group.items()}

        return orjson.dumps(vars(self) | {"kept": plain(self.kept), "aside": plain(self.aside)})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        fields = orjson.loads(data)
        for group in ("kept", "aside"):
            fields[group] = {name: [Shard(**s) for s in shards] for name, shards in fields[group].items()}
        return cls(**fields | {"reasons": Counter(fields["reasons"])})
