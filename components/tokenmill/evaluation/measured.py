"""An evaluation as those read it who judge it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenmill.evaluation.evaluate import EVALUATION
from tokenmill.manifest import Manifest
from tokenmill.steps import StepContext

Prediction = dict[str, Any]


def scored(pairs: Iterable[tuple[Prediction, Prediction]]) -> list[tuple[float, float]]:
    """Of each pair the two scores; without the pairs of which a judge graded one alone, or none."""
    scores = ((a["score"], b["score"]) for a, b in pairs)
    return [pair for pair in scores if None not in pair]


@dataclass(frozen=True)
class Measured:
    """An evaluation with its predictions."""

    facts: dict[str, Any]
    predictions: dict[str, dict[str, Prediction]]
    """Suite → question id → prediction."""

    @classmethod
    def read(cls, evaluation: Manifest, ctx: StepContext) -> "Measured":
        predictions: dict[str, dict[str, Prediction]] = {}
        for row in ctx.records(evaluation):
            predictions.setdefault(row["suite"], {})[row["id"]] = row
        return cls(ctx.read_json(evaluation, EVALUATION), predictions)

    @property
    def label(self) -> str:
        return str(self.facts["label"] or f"model {self.facts['model'][:8]}")

    @property
    def suites(self) -> dict[str, Any]:
        """What was measured; a diverged model's NaN is no measurement."""
        return {name: suite for name, suite in self.facts["suites"].items() if suite["value"] is not None}
