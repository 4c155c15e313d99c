"""Along a training: the weights that it kept, on a light suite, against the tokens they saw; drops beyond chance are told.

Each of them is measured as every checkpoint is (`evaluation.evaluate`), on fewer questions; MLflow has a curve a suite.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

import orjson

from tokenmill.evaluation.config import EvaluateConfig, FollowConfig
from tokenmill.evaluation.evaluate import evaluate
from tokenmill.evaluation.measured import Measured
from tokenmill.evaluation.questions import suite_of
from tokenmill.evaluation.statistics import Bootstrap
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import StepContext, step
from tokenmill.training.exports import KEPT, apart

COURSE, COURSE_TEXT = "course.json", "course.md"
Predictions = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Point:
    """Weights of the way, measured."""

    tokens: int
    measured: Measured


@dataclass(frozen=True)
class Drop:
    """A score that fell beyond chance below the best before it; of perplexity, scores are negative losses."""

    suite: str
    tokens: int
    best_tokens: int
    difference: float
    se: float


@step(
    "evaluation.follow",
    version=3,
    reproducible="same_platform",
    libraries=("torch", "numpy", "tokenizers"),
    kinds={"kept": KEPT, "tokenizer": "tokenizer", "questions": "questions"},
)
def follow(
    config: FollowConfig, kept: list[Manifest], tokenizer: Manifest, questions: Manifest, ctx: StepContext
) -> Draft:
    """Score what was kept, in the order of tokens, and compare each with the best before it on the same questions."""
    way = sorted((weights for one in kept for weights in apart(one)), key=lambda w: w.counts["tokens_seen"])
    asked = _issued(_light(config, questions, ctx))
    settings = EvaluateConfig(label="follow", form="plain", execution=config.execution)
    points = []
    for weights in way:
        at = _At(**{f.name: getattr(ctx, f.name) for f in fields(ctx)}, tokens=weights.counts["tokens_seen"])
        made = _issued(evaluate(settings, _issued(weights), tokenizer, asked, at))
        points.append(Point(at.tokens, Measured.read(made, ctx)))
    drops = list(find_drops(points, config.sigmas, Bootstrap(config.resamples, seed=config.seed)))
    for drop in drops:
        ctx.log.warning("a score fell beyond chance", **asdict(drop))
    ctx.metrics({"drops": float(len(drops))}, step=points[-1].tokens if points else None)
    return _written(points, drops, ctx)


def find_drops(points: Sequence[Point], sigmas: float, bootstrap: Bootstrap) -> Iterator[Drop]:
    """Scores that fell by more than `sigmas` standard errors, paired by question, below the best before."""
    best: dict[str, Point] = {}
    for point in points:
        for suite, own in point.measured.predictions.items():
            if not all(math.isfinite(_score(prediction)) for prediction in own.values()):
                if suite in best:
                    yield Drop(suite, point.tokens, best[suite].tokens, -math.inf, 0.0)
                continue
            if suite not in best:
                best[suite] = point
                continue
            before = best[suite].measured.predictions[suite]
            changes = [_score(own[id]) - _score(before[id]) for id in sorted(own)]
            weights = [float(own[id].get("tokens", 1)) for id in sorted(own)]
            change, error = bootstrap.mean(changes, weights).value, bootstrap.standard_error(changes, weights)
            if change < -sigmas * error:
                yield Drop(suite, point.tokens, best[suite].tokens, round(change, 6), round(error, 6))
            elif change > 0:
                best[suite] = point


def _score(prediction: dict[str, Any]) -> float:
    """More is better."""
    if prediction["score"] is None:
        return -float(prediction["loss"]) / float(prediction["tokens"])
    return float(prediction["score"])


@dataclass
class _At(StepContext):
    """A step's context whose metrics are told at a number of tokens."""

    tokens: int = 0

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        super().metrics(values, self.tokens)


def _light(config: FollowConfig, questions: Manifest, ctx: StepContext) -> Draft:
    """The first questions of the suites that are asked along the way."""
    chosen = {
        shard.name: list(ctx.records(questions, shard))[: config.questions]
        for shard in questions.shards
        if any(fnmatchcase("/".join(suite_of(shard.name)), pattern) for pattern in config.suites)
    }
    return ctx.write_records("questions", dict(chosen))


def _issued(draft: Draft) -> Manifest:
    """A draft as others read it. It is a part of this step's work, and stands in no lineage."""
    return Manifest.issue(draft, parents={}, step="evaluation.follow", version=2, config={})


def _written(points: Sequence[Point], drops: Sequence[Drop], ctx: StepContext) -> Draft:
    course = {
        "points": [{"tokens": point.tokens, "suites": point.measured.facts["suites"]} for point in points],
        "drops": [asdict(drop) for drop in drops],
    }
    folder = ctx.workdir / "course"
    folder.mkdir()
    (folder / COURSE).write_bytes(orjson.dumps(course, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
    (folder / COURSE_TEXT).write_text(as_text(points, drops), "utf-8")
    draft = ctx.write_files("course", folder, counts={"points": len(points), "drops": len(drops)})
    if points:
        ctx.events.artifact(COURSE_TEXT, draft.shards[-1].blob)
    return draft


def as_text(points: Sequence[Point], drops: Sequence[Drop]) -> str:
    """The course as a page: a row a suite, a column a point."""
    if not points:
        return "Nothing was kept of the way: set pretraining.pretrain.short.kept.\n"
    suites = sorted({suite for point in points for suite in point.measured.suites})
    fallen = {(drop.suite, drop.tokens) for drop in drops}
    rows = [
        f"| {suite} | "
        + " | ".join(
            f"{point.measured.suites[suite]['value']:.4g}{' ▼' if (suite, point.tokens) in fallen else ''}"
            if suite in point.measured.suites
            else "–"
            for point in points
        )
        + " |"
        for suite in suites
    ]
    head = "| tokens | " + " | ".join(f"{point.tokens:,}" for point in points) + " |"
    told = f"\n{len(drops)} scores fell beyond chance below the best before them (▼).\n" if drops else ""
    return "\n".join([head, "|---" * (len(points) + 1) + "|", *rows]) + "\n" + told
