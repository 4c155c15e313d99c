"""Δ1 and Δ2 (report §5.4): does a model know the test better than a reference like it, or the training split better than both?

Δ1 = L(test) − L(reference), low where the test leaked; Δ2 = L(test) − L(train), high where the training split was learned by
heart. L is the mean over samples of the mean loss a token of question and answer. An outlier is beyond a limit and beyond
chance; how small a Δ a number of samples can show at all is told with it (the limits are ours, the report only shades cells).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenmill.evaluation.evaluate import DELTAS
from tokenmill.evaluation.evaluate import deltas as measured
from tokenmill.evaluation.statistics import Bootstrap

LIMIT, SIGMAS = 0.1, 3.0
"""Nats a token, and standard errors, that a Δ must exceed to be an outlier."""


@dataclass(frozen=True)
class Deltas:
    """Differences of mean losses in nats a token; None where a split is missing."""

    delta1: float | None
    delta2: float | None
    delta1_se: float | None
    """Standard error: of two means over different samples."""
    delta2_se: float | None
    flags: tuple[str, ...]
    """Of `delta1` and `delta2`, the outliers."""
    smallest: dict[str, float]
    """Δ → the smallest size at which it would be flagged: what these samples can show."""


def deltas(
    test_losses: Sequence[float],
    train_losses: Sequence[float],
    reference_losses: Sequence[float],
    *,
    limit: float = LIMIT,
    sigmas: float = SIGMAS,
    bootstrap: Bootstrap = Bootstrap(),
) -> Deltas:
    """Both Δ of a model's losses on three splits, a loss a sample."""
    splits = {"test": test_losses, "train": train_losses, "reference": reference_losses}
    rows = [{"split": split, "loss": loss} for split, losses in splits.items() for loss in losses]
    found = measured(rows, bootstrap)
    values = {name: found[name]["value"] for name in DELTAS if name in found}
    errors = {name: found[name]["se"] for name in values}
    return Deltas(
        delta1=values.get("delta1"),
        delta2=values.get("delta2"),
        delta1_se=errors.get("delta1"),
        delta2_se=errors.get("delta2"),
        flags=tuple(name for name, value in values.items() if is_outlier(value, errors[name], limit, sigmas)),
        smallest={name: smallest(error, limit, sigmas) for name, error in errors.items()},
    )


def is_outlier(value: float, se: float, limit: float = LIMIT, sigmas: float = SIGMAS) -> bool:
    """Whether a Δ is beyond its limit, and beyond chance."""
    return abs(value) > smallest(se, limit, sigmas)


def smallest(se: float, limit: float = LIMIT, sigmas: float = SIGMAS) -> float:
    """The size of Δ that a standard error lets nobody see below."""
    return max(limit, sigmas * se)
