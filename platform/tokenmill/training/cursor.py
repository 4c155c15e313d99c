"""Where a training is in the global order of its samples, and what it has taken of each source."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tokenmill.errors import CorruptError
from tokenmill.training.run import Batches, StepBatch


@dataclass
class Cursor:
    """What a checkpoint says of the data. Every rank has the same one: it counts samples over all ranks."""

    step: int = 0
    """The next optimizer step."""
    samples: int = 0
    """The next sample's global id: those below it are behind, learned or left out."""
    tokens: int = 0
    """Tokens the model has seen, before this training too; what was left out is not among them."""
    seen: dict[str, int] = field(default_factory=dict)
    """Tokens taken a source."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Tokens a source of skipped steps."""
    skipped: list[int] = field(default_factory=list)
    """Steps whose batches were left out."""

    def take(self, batch: StepBatch) -> None:
        """Count a batch that was learned."""
        self.tokens += batch.tokens
        self.seen = _sum(self.seen, batch.sources)

    def skip(self, step: int, sources: Mapping[str, int]) -> None:
        """Count a batch that was left out."""
        self.skipped.append(step)
        self.left_out = _sum(self.left_out, sources)

    def saved(self, step: int, batches: Batches) -> dict[str, Any]:
        """As a checkpoint keeps it, before `step`."""
        self.step, self.samples = step, batches.first_sample(step)
        return asdict(self)

    @classmethod
    def restored(cls, state: Mapping[str, Any], batches: Batches) -> "Cursor":
        """The cursor of a checkpoint.

        Raises:
            CorruptError: `batches` have another order of samples than those that the checkpoint was taken among.
        """
        cursor = cls(**state)
        if cursor.samples != (here := batches.first_sample(cursor.step)):
            raise CorruptError(
                f"the checkpoint of step {cursor.step} is at sample {cursor.samples}, where the data have step "
                f"{cursor.step} begin at sample {here}: they are not the same batches. Delete its checkpoints to start anew"
            )
        return cursor


@dataclass(frozen=True)
class Plan:
    """What a training means to take of each source, in tokens."""

    planned: Mapping[str, int]
    remainder: Mapping[str, int]
    """Of `planned`, what lies in packs after the last whole step."""
    of_step: Callable[[int], Mapping[str, int]]

    def ledger(self, cursor: Cursor) -> dict[str, dict[str, int]]:
        """Planned and seen tokens a source at the end of a training, and skipped ones where there are any.

        Raises:
            AssertionError: they do not add up.
        """
        rows = {}
        for source in sorted(self.planned):
            planned, seen, skipped = (of.get(source, 0) for of in (self.planned, cursor.seen, cursor.left_out))
            if planned != seen + skipped + self.remainder.get(source, 0):
                raise AssertionError(
                    f"the mixture does not balance: {planned} tokens of {source} were planned, {seen} seen, {skipped} "
                    f"skipped, and {self.remainder.get(source, 0)} lie after the last step"
                )
            rows[source] = {"planned": planned, "seen": seen} | ({"skipped": skipped} if skipped else {})
        if unplanned := {*cursor.seen, *cursor.left_out} - {*self.planned}:
            raise AssertionError(f"the mixture does not balance: nothing of {', '.join(sorted(unplanned))} was planned")
        return rows


def _sum(*counts: Mapping[str, int]) -> dict[str, int]:
    total = Counter[str]()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))
