"""What a phase hands to the shared loop: a model, batches and a loss.

Live objects never cross a process. A training step's `build` is called in every rank and returns a `TrainingRun`; the loop
does the rest: engine, schedule, checkpoints, metrics, export.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from tokenmill.training.settings import OptimConfig

if TYPE_CHECKING:
    from tokenmill.training.cursor import Plan


@dataclass(frozen=True)
class StepBatch:
    """One rank's share of one optimizer step."""

    micro_batches: list[Any]
    """As many as `Batches.accumulation` says, on every rank."""
    weight: float
    """Total weight over *all* ranks: what the summed loss is divided by (trained tokens, pairs)."""
    tokens: int
    """Tokens seen in this step over all ranks."""
    sources: Mapping[str, int] = field(default_factory=dict)
    """Of these, tokens a source, where batches keep count."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Metric → what its sum over all ranks is divided by, where that is not `weight`."""
    attended: float = 0.0
    """Length of the sequence that a token is in, on average: what attention costs. 0: not known."""


class Batches(Protocol):
    """Batches as a function of the global step: any number of ranks or restarts sees the same global order."""

    def __len__(self) -> int:
        """Optimizer steps."""

    def accumulation(self, world: int) -> int:
        """Micro-batches a rank and step: what gradients are accumulated over. Known before anything is drawn."""

    def resumable(self, step: int) -> bool:
        """Whether a training can go on at `step` as if it had never stopped: only there a checkpoint is taken."""

    def first_sample(self, step: int) -> int:
        """Samples in all steps before this one, over all ranks: the global id of its first."""

    def at(self, step: int, rank: int, world: int) -> StepBatch:
        """This rank's share of global step `step`. It may ask the model, which by then is where it trains."""


class Stateful(Protocol):
    """What a phase remembers from step to step beside its weights, alike on every rank. As `torch.distributed` has it."""

    def state_dict(self) -> dict[str, Any]:
        """As JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's."""


@dataclass(frozen=True)
class LossOutput:
    """The loss of one micro-batch, summed (the loop divides by the global weight)."""

    loss: torch.Tensor
    metrics: Mapping[str, float | torch.Tensor] = field(default_factory=dict)
    """Sums over the micro-batch, of the same names on every rank; the loop divides them by the global weight too, or
    by the batch's weight of that name."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with a rate of their own."""

    parameters: list[torch.nn.Parameter]
    lr_scale: float = 1.0
    frozen_steps: int = 0
    """Optimizer steps at rate zero at the start (PPO: the critic learns alone first)."""
    weight_decay: float | None = None


class Best(NamedTuple):
    """What makes weights the best: a metric, and whether less of it is better. Of equals the earliest are."""

    metric: str
    smallest: bool = False

    def better(self, value: float, than: float) -> bool:
        return value < than if self.smallest else value > than


def evenly(times: int, first: int, last: int) -> frozenset[int]:
    """So many places from `first` to `last`, both among them, equally far apart."""
    between = max(1, times - 1)
    return frozenset(round(first + number * (last - first) / between) for number in range(times))


@dataclass(frozen=True)
class TrainingRun:
    """Everything the loop needs, built alike in every rank."""

    model: torch.nn.Module
    batches: Batches
    loss: Callable[[torch.nn.Module, Any], LossOutput]
    optim: OptimConfig
    export: Callable[[Any, Path], None]
    """Write the weights folder from the bare `model`; called on rank 0 at the end."""
    groups: list[ParameterGroup] | None = None
    """Default: matrices with decay, norms without."""
    evaluate: Callable[[torch.nn.Module], dict[str, float]] | None = None
    """Held-out metrics; called on every rank at `evaluate_at` steps, before the step."""
    evaluate_at: frozenset[int] = frozenset()
    best_by: Best | None = None
    """What of `evaluate` chooses the weights which leave (ZeRO 0 to 2); without it, the last."""
    milestones: Mapping[str, int] = field(default_factory=dict)
    """Output → optimizer step before which the weights become an artifact of that name too (ZeRO 0 to 2)."""
    kept_at: frozenset[int] | None = None
    """Optimizer steps before which the weights are kept, all in one artifact `kept` (ZeRO 0 to 2); the number of steps stands
    for the last ones. None: there is no such artifact."""
    on_step: Callable[[int], dict[str, float]] | None = None
    """Extra metrics after a step, from the phase itself."""
    kept: Stateful | None = None
    """What every checkpoint keeps of the phase's own."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Facts for the weights' manifest."""
    plan: "Plan | None" = None
    """Tokens that are to be taken of each source. At the end it must balance; facts get the ledger."""
    optimizer: Path | None = None
    """Folder with the optimizer's state that the training goes on with; fresh without one."""
    optimizer_out: Path | None = None
    """Folder that its state is left in at the end, for another training to go on with: the artifact `training_state`."""
    tokens_before: int = 0
    """Tokens the model saw before this run: the origin of the x axis."""
