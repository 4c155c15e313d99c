"""Steps that would spoil a training: found, gone back before, and left out (report §2.1; AMSP's recovery on a loss spike).

A loss or gradient norm that is not finite, or a loss far above those of the steps before, for several steps. The step's ranks
end, the launcher starts them again from the newest checkpoint, and the batches of those steps are not learned. No checkpoint
is taken while a spike is suspected, so the newest one always lies before it. What was found is kept beside the checkpoints:
whoever goes on, after whatever else has happened, leaves out the same steps.
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from enum import IntEnum

import orjson

from tokenmill.errors import StepFailed
from tokenmill.manifest import Frozen
from tokenmill.store import ArtifactStore
from tokenmill.training.settings import AnomalyConfig

SMALLEST_SPREAD = 0.01
"""Share of the median that the MAD is taken for at least: of losses that hardly move, every other one would stand out."""


class Verdict(IntEnum):
    """What a step's numbers say; the larger one counts."""

    FINE = 0
    SUSPECT = 1
    ANOMALY = 2


class Incident(Frozen):
    """Steps that are left out, and why."""

    steps: tuple[int, ...]
    reason: str


class Detector:
    """Judges each step by its own numbers and the losses before it. The same steps give the same verdicts."""

    def __init__(self, config: AnomalyConfig, losses: Iterable[float] = ()) -> None:
        self.config = config
        self.losses = deque(losses, maxlen=config.window)
        """Of the last steps that were fine: all that a checkpoint keeps of a detector."""
        self._suspected: dict[int, float] = {}
        self.incident: Incident | None = None

    def look(self, step: int, loss: float, grad_norm: float) -> Verdict:
        """Judge a step; after `ANOMALY` there is an `incident`."""
        for name, value in (("loss", loss), ("gradient norm", grad_norm)):
            if not math.isfinite(value):
                self.incident = Incident(steps=(*self._suspected, step), reason=f"{name} is {value}")
                return Verdict.ANOMALY
        limit = self.limit()
        if loss <= limit:
            self.losses.extend([*self._suspected.values(), loss])  # a short rise was noise
            self._suspected = {}
            return Verdict.FINE
        self._suspected[step] = loss
        if len(self._suspected) < self.config.spike_steps:
            return Verdict.SUSPECT
        self.incident = Incident(steps=tuple(self._suspected), reason=f"loss is {loss:.4g}, above {limit:.4g}")
        return Verdict.ANOMALY

    def limit(self) -> float:
        """The loss above which a step is suspect; infinite until half of the window is known."""
        if not self.config.spike_mads or len(self.losses) < self.config.window / 2:
            return math.inf
        median = statistics.median(self.losses)
        spread = statistics.median(abs(loss - median) for loss in self.losses)
        return median + self.config.spike_mads * max(spread, SMALLEST_SPREAD * abs(median))


def read_incidents(store: ArtifactStore, key: str) -> list[Incident]:
    """What has happened to the training of an action key, the oldest first."""
    if not store.backend.exists(_place(key)):
        return []
    return [Incident.model_validate(one) for one in orjson.loads(store.backend.get(_place(key)))]


def write_incidents(store: ArtifactStore, key: str, incidents: Sequence[Incident]) -> None:
    store.backend.put(_place(key), orjson.dumps([incident.model_dump() for incident in incidents]))


def record(store: ArtifactStore, key: str, incident: Incident, most: int) -> str:
    """Keep an incident, so that the steps are left out from now on; says so in one line.

    Raises:
        StepFailed: there have been `most` before it.
    """
    before = read_incidents(store, key)
    told = f"{incident.reason} at {_steps(incident.steps)}"
    if len(before) >= most:
        earlier = f", after rolling back for {'; '.join(_steps(one.steps) for one in before)}" if before else ""
        raise StepFailed(
            f"{told}{earlier}: lower optim.lr or look at the data of those steps; execution.max_rollbacks (now {most}) "
            "allows more of this"
        )
    write_incidents(store, key, [*before, incident])
    return f"{told}: going back to the newest checkpoint, to leave out {_steps(incident.steps)}"


def left_out(incidents: Iterable[Incident]) -> frozenset[int]:
    return frozenset(step for incident in incidents for step in incident.steps)


def _steps(steps: Sequence[int]) -> str:
    first, last = min(steps), max(steps)
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _place(key: str) -> str:
    return f"work/{key}/incidents.json"
