"""One model on all suites, in this process or behind an endpoint: numbers with intervals, and every prediction they are
made of."""

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy

from tokenmill.errors import InputError
from tokenmill.evaluation.config import EndpointConfig, EvaluateConfig
from tokenmill.evaluation.grading import counted, graded_as, of_all
from tokenmill.evaluation.questions import suite_of
from tokenmill.evaluation.statistics import Bootstrap, Interval
from tokenmill.manifest import Draft, Manifest
from tokenmill.records import JSONL, Record
from tokenmill.steps import StepContext, effect, step

if TYPE_CHECKING:
    from tokenmill.evaluation.backend import Backend

EVALUATION, PREDICTIONS = "evaluation.json", f"predictions{JSONL}"


@step(
    "evaluation.evaluate",
    version=7,
    reproducible="same_platform",
    libraries=("torch", "numpy", "tokenizers", "sacrebleu"),
    kinds={"weights": "weights", "tokenizer": "tokenizer", "questions": "questions"},
)
def evaluate(
    config: EvaluateConfig, weights: Manifest, tokenizer: Manifest, questions: Manifest, ctx: StepContext
) -> Draft:
    """Answer every question; greedy, so that the same inputs give the same numbers."""
    backend = in_process(config, weights, ctx)
    return _examined(config, backend, tokenizer, questions, ctx, {"model": weights.content})


def in_process(config: EvaluateConfig, weights: Manifest, ctx: StepContext) -> "Backend":
    """The model in this process, on as many threads as it is given."""
    import torch

    from tokenmill.evaluation.in_process import InProcess

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return InProcess.load(ctx.files(weights), config.execution)


@effect(
    "evaluation.evaluate_endpoint",
    version=3,
    section="evaluation.evaluate",
    kinds={"weights": "weights", "tokenizer": "tokenizer", "questions": "questions"},
)
def evaluate_endpoint(
    config: EndpointConfig, weights: Manifest | None, tokenizer: Manifest, questions: Manifest, ctx: StepContext
) -> Draft:
    """Ask a served model the same questions. `weights` is what it is said to serve; without, it goes by its name there."""
    from tokenmill.evaluation.endpoint import Endpoint

    backend = Endpoint.at(config.model, config.execution)
    told = {"model": weights.content if weights else config.model, "served_as": config.model}
    return _examined(config, backend, tokenizer, questions, ctx, told)


def _examined(
    config: EvaluateConfig,
    backend: "Backend",
    tokenizer: Manifest,
    questions: Manifest,
    ctx: StepContext,
    told: dict[str, str],
) -> Draft:
    """The evaluation of a model; `told` is what says which one it is."""
    from tokenmill.evaluation.scoring import MODES, Subject

    bootstrap = Bootstrap(config.resamples, config.confidence, config.seed)
    subject = Subject.of(backend, ctx.files(tokenizer), config)
    suites: dict[str, Any] = {}
    contamination: dict[str, Any] = {}
    predictions = []
    with ctx.progress(len(questions.shards), "suites") as bar:
        for shard in sorted(questions.shards, key=lambda s: s.name):
            mode, suite = suite_of(shard.name)
            if mode not in MODES:
                raise InputError(
                    f"questions {questions.digest[:12]}: {shard.name} has no known mode; there are {', '.join(MODES)}"
                )
            records = list(ctx.records(questions, shard))
            found = counted(MODES[mode](subject, records), records) if records else []
            predictions += [{"suite": f"{mode}/{suite}", "score": None} | row for row in found]
            if mode == "contamination":
                contamination[suite] = deltas(found, bootstrap)
            elif found:
                suites[f"{mode}/{suite}"] = summary(graded_as(mode, records), found, bootstrap)
            bar.advance()
    told = {**told, "questions": questions.content}
    return write_evaluation(ctx, config, tokenizer, told, suites, predictions, contamination)


def write_evaluation(
    ctx: StepContext,
    config: EvaluateConfig,
    tokenizer: Manifest,
    told: dict[str, str],
    suites: dict[str, Any],
    predictions: Sequence[Record],
    contamination: dict[str, Any] | None = None,
) -> Draft:
    """Suites' numbers and every prediction as an artifact, the numbers as metrics of the run.

    Args:
        told: which model it is, and a digest of its `questions`.
        suites: name → what `summary` found.
    """
    contamination = contamination or {}
    values = {f"evaluation/{name}": suite["value"] for name, suite in suites.items()}
    ctx.metrics({name: value for name, value in values.items() if value is not None})
    ctx.metrics(
        {
            f"evaluation/{d}/{name}": split[d]["value"]
            for name, split in contamination.items()
            for d in DELTAS
            if d in split
        }
    )
    document = {
        "label": config.label,
        "form": config.form,
        **told,
        "tokenizer": tokenizer.content,
        "suites": suites,
        "contamination": contamination,
    }
    evaluation = ctx.write_json("evaluation", EVALUATION, document)
    rows = ctx.write_records("evaluation", {PREDICTIONS: predictions})
    return Draft(
        kind="evaluation", shards=(*evaluation.shards, *rows.shards), counts={"suites": len(suites)} | rows.counts
    )


DELTAS = {"delta1": ("test", "reference"), "delta2": ("test", "train")}
"""Δ1 = L(test) − L(reference): low if the test leaked. Δ2 = L(test) − L(train): high if train is known by heart."""


def summary(metric: str, predictions: Sequence[dict[str, Any]], bootstrap: Bootstrap) -> dict[str, Any]:
    """Metric, value, interval and number of samples of a suite; a diverged model's value and interval are None.

    Of perplexity also the mean loss (nats a token), the tokens, and bits a byte of the text that was read (Gao et al. 2020,
    the Pile), which compares models of different tokenizers.
    """
    more: dict[str, Any] = {}
    if metric == "perplexity":
        losses, tokens = zip(*((p["loss"] / p["tokens"], p["tokens"]) for p in predictions), strict=True)
        loss = bootstrap.mean(losses, tokens)
        interval: Interval = loss.map(_perplexity)
        read, nats = (sum(p[unit] for p in predictions) for unit in ("bytes", "loss"))
        bits = _round(nats / math.log(2) / read) if read else None
        more = {"loss": _round(loss.value), "tokens": sum(tokens), "bits_per_byte": bits}
    elif "counts" in predictions[0]:
        interval = bootstrap.of_sums(numpy.array([p["counts"] for p in predictions]), of_all(metric))
    elif scores := [p["score"] for p in predictions if p["score"] is not None]:
        interval = bootstrap.mean(scores)
        more = {"ungraded": len(predictions) - len(scores)} if len(scores) < len(predictions) else {}
    else:
        interval = Interval(math.nan, math.nan, math.nan)
    numbers = {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high}
    measured = all(map(math.isfinite, numbers.values()))
    told = {name: _round(x) if measured else None for name, x in numbers.items()}
    return {"metric": metric, **told, "n": len(predictions), **more}


def _perplexity(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:  # above 709 nats
        return math.inf


def deltas(predictions: Sequence[dict[str, Any]], bootstrap: Bootstrap) -> dict[str, Any]:
    """The mean loss of each split, and Δ1 and Δ2 with their standard errors."""
    splits: dict[str, list[float]] = {}
    for prediction in predictions:
        splits.setdefault(prediction["split"], []).append(prediction["loss"])
    found: dict[str, Any] = {
        split: {"loss": _round(sum(x) / len(x)), "se": _round(bootstrap.standard_error(x)), "n": len(x)}
        for split, x in sorted(splits.items())
    }
    for name, (test, other) in DELTAS.items():
        if test in found and other in found:
            difference = found[test]["loss"] - found[other]["loss"]
            error = math.hypot(found[test]["se"], found[other]["se"])  # the splits are different samples
            found[name] = {"value": _round(difference), "se": _round(error)}
    return found


def _round(value: float) -> float:
    """Seven digits: what a single precision forward pass can mean."""
    return float(f"{value:.7g}")
