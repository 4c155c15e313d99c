"""Labels → a linear scorer, and what it is worth on labels that it never saw."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenmill.curation.labels import Label, built_in, labels_of, merge
from tokenmill.curation.linear_scorer import LinearScorer, features
from tokenmill.curation.scorer import Scorer, orientation
from tokenmill.curation.scorer_config import LearnedScoreConfig, TrainScorerConfig
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest, sha256
from tokenmill.steps import StepContext, step


@step("curation.train_scorer", version=2, libraries=("numpy", "numba"), kinds={"labels": "labels"})
def train_scorer(config: TrainScorerConfig, labels: Manifest | None, ctx: StepContext) -> Draft:
    """Fit a linear scorer; its facts hold accuracy and AUC on the held-out labels, all and by language."""
    trained, heldout = known_labels(config, labels, ctx)
    scorer = fit(config, trained)
    folder = ctx.workdir / "scorer"
    scorer.save(folder)
    return write_scorer(folder, scorer, trained, heldout, ctx)


def known_labels(
    config: LearnedScoreConfig, labels: Manifest | None, ctx: StepContext
) -> tuple[list[Label], list[Label]]:
    """The labels to train on, and those to measure with.

    Raises:
        InputError: one of the two is not of both kinds.
    """
    own = [label for label in labels_of(ctx, labels) if label.score == config.score] if labels else []
    known, _ = merge(built_in(config.score) if config.built_in_labels else [], own)
    trained, heldout = split(known, config.heldout_share)
    for part, name in ((trained, "training"), (heldout, "held-out")):
        if len({label.positive for label in part}) < 2:
            raise InputError(
                f"{ctx.name}: the {len(part)} {name} labels of {config.score!r} are not of both kinds; "
                "import more with curation.import_labels"
            )
    return trained, heldout


def write_scorer(
    folder: Path, scorer: Scorer, trained: Sequence[Label], heldout: Sequence[Label], ctx: StepContext
) -> Draft:
    """The scorer in the folder as an artifact, with what it is worth."""
    measured = evaluate(scorer, heldout)
    facts = {
        "score": scorer.name,
        "higher_is": orientation(scorer.name),
        "trained_on": len(trained),
        "heldout": measured,
    }
    ctx.metrics({name: measured["all"][name] for name in ("accuracy", "auc")})
    return ctx.write_files("scorer", folder, counts={"labels": len(trained) + len(heldout)}, facts=facts)


def split(labels: Sequence[Label], heldout_share: float) -> tuple[list[Label], list[Label]]:
    """Training and held-out labels; the choice hangs on each text alone, and every language and kind gives its share."""
    groups: defaultdict[tuple[str, bool], list[Label]] = defaultdict(list)
    for label in labels:
        groups[label.lang, label.positive].append(label)
    trained, heldout = [], []
    for key in sorted(groups):
        drawn = sorted(groups[key], key=lambda label: sha256(label.text.encode()))
        n = round(heldout_share * len(drawn))
        heldout += drawn[:n]
        trained += drawn[n:]
    return trained, heldout


def fit(config: TrainScorerConfig, labels: Sequence[Label]) -> LinearScorer:
    """Fit weights and bias to labels, both kinds of equal weight."""
    columns = 1 << config.features
    rows = list(features([label.text for label in labels], columns))
    value = np.array([label.value for label in labels])
    weight = balance(value >= 0.5)
    weights, bias = logistic_regression(rows, value, weight, columns, config.weight_decay, config.max_iterations)
    languages = frozenset(label.lang for label in labels)
    return LinearScorer(config.score, languages, weights.astype(np.float32), round(float(bias), 9))


def logistic_regression(
    rows: Sequence[np.ndarray],
    value: np.ndarray,
    weight: np.ndarray,
    columns: int,
    decay: float,
    max_iterations: int,
    tolerance: float = 1e-6,
) -> tuple[np.ndarray, float]:
    """Minimise Σ weight·crossentropy + decay/2·|w|² by Nesterov's accelerated gradient.

    A row has the value 1/√m in each of its m columns, so its length is 1; with the bias' own 1 the loss's curvature is at
    most ½ (weights sum to 1), which gives the step without a search. No random number, and no threaded library.

    Args:
        rows: columns of each sample, each once.
        value: (n,) targets in [0, 1]; weight: (n,), summing to 1.

    Returns:
        (columns,) weights and the bias.
    """
    column = np.concatenate(rows)
    lengths = np.array([len(row) for row in rows])
    of_row = np.repeat(np.arange(len(rows)), lengths)
    scale = 1 / np.sqrt(np.maximum(lengths, 1))
    used, column = np.unique(column, return_inverse=True)

    w, b = np.zeros(len(used)), 0.0
    ahead_w, ahead_b = w, b
    rate, momentum = 1 / (0.5 + decay), (1 - (2 * decay) ** 0.5) / (1 + (2 * decay) ** 0.5)
    for _ in range(max_iterations):
        logits = scale * np.bincount(of_row, ahead_w[column], len(rows)) + ahead_b
        error = weight * (1 / (1 + np.exp(-np.clip(logits, -40, 40))) - value)
        gradient = np.bincount(column, (scale * error)[of_row], len(used)) + decay * ahead_w
        slope = float(error.sum())
        next_w, next_b = ahead_w - rate * gradient, ahead_b - rate * slope
        ahead_w, ahead_b = next_w + momentum * (next_w - w), next_b + momentum * (next_b - b)
        w, b = next_w, next_b
        if max(float(np.abs(gradient).max(initial=0)), abs(slope)) < tolerance:
            break
    weights = np.zeros(columns)
    weights[used] = w
    return weights, b


def balance(positive: np.ndarray) -> np.ndarray:
    """(n,) weights that sum to 1, half of it to each kind of label."""
    return np.where(positive, 0.5 / max(positive.sum(), 1), 0.5 / max((~positive).sum(), 1))


def evaluate(scorer: Scorer, labels: Sequence[Label]) -> dict[str, Any]:
    """Accuracy at 0.5 and AUC, of all labels and of each language."""
    scores = scorer.score([label.text for label in labels])
    positive = np.array([label.positive for label in labels])
    langs = np.array([label.lang for label in labels])
    parts = {"all": np.ones(len(labels), bool)} | {lang: langs == lang for lang in sorted(set(langs.tolist()))}
    return {name: quality(scores[part], positive[part]) for name, part in parts.items()}


def quality(scores: np.ndarray, positive: np.ndarray) -> dict[str, Any]:
    """How well scores tell positive samples from the others; no AUC where there is one kind only."""
    accuracy = float(np.mean((scores >= 0.5) == positive))
    area = auc(scores, positive)
    return {
        "labels": len(scores),
        "accuracy": round(accuracy, 4),
        "auc": None if np.isnan(area) else round(area, 4),
    }


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive sample scores higher than another one, ties half (Mann–Whitney U); NaN of one kind."""
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))
