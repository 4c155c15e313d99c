"""The gate: declared limits, held against what was measured; a verdict that a person can read.

Evidence that is missing fails a check: a gate that nobody fed must not open.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from tokenmill.errors import InputError
from tokenmill.evaluation.config import GateConfig, ReferenceLimits
from tokenmill.evaluation.deltas import is_outlier, smallest
from tokenmill.evaluation.evaluate import DELTAS
from tokenmill.evaluation.haystacks import needle_map
from tokenmill.evaluation.lineage_checks import Contamination, clean_scores, contaminated, costed, licensed
from tokenmill.evaluation.measured import Measured, scored
from tokenmill.evaluation.patterns import matching, missing, strictest
from tokenmill.evaluation.questions import ASKED_IN_FORM, suite_of
from tokenmill.evaluation.statistics import Bootstrap
from tokenmill.evaluation.training_sets import TRAINING_SETS
from tokenmill.evaluation.verdict import Check, as_text, page
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import StepContext, step

VERDICT, VERDICT_TEXT, PAGE = "verdict.json", "verdict.md", "verdict.html"


@step(
    "evaluation.gate",
    version=10,
    libraries=("numpy", "jinja2", "license-expression"),
    kinds={
        "candidate": "evaluation",
        "references": "evaluation",
        "current": "evaluation",
        "decontamination": "decontamination",
        "training_sets": "training_sets",
        "tokenizer": "tokenizer",
    },
)
def gate(
    config: GateConfig,
    candidate: Manifest,
    references: list[Manifest] | None,
    current: Manifest | None,
    decontamination: Manifest | None,
    training_sets: Manifest | None,
    tokenizer: Manifest | None,
    ctx: StepContext,
) -> dict[str, Draft]:
    """Hold an evaluation against its limits, its references, the model in use, and the training data behind it."""
    measured = Measured.read(candidate, ctx)
    others = {other.label: other for other in (Measured.read(reference, ctx) for reference in references or ())}
    found = Contamination.read(decontamination, ctx) if decontamination else None
    lineage = ctx.read_json(training_sets, TRAINING_SETS) if training_sets else None
    checks = [
        *_limits(config, measured),
        *_references(config, measured, others),
        *_current(config, measured, Measured.read(current, ctx) if current else None),
        *_deltas(config, measured),
        *contaminated(config, measured, found),
        *licensed(config.licences, measured, lineage),
        *costed(config.cost, measured, lineage),
        *_template(config, ctx.files(tokenizer) if tokenizer else None),
    ]
    if not checks:
        raise InputError("evaluation.gate has nothing to check: set limits or references")
    bootstrap = Bootstrap(config.resamples, config.confidence, config.seed)
    verdict = {
        "passed": all(check.passed for check in checks),
        "label": measured.label,
        "model": measured.facts["model"],
        "candidate": candidate.content,
        "references": {label: other.facts["model"] for label, other in sorted(others.items())},
        "checks": [asdict(check) for check in checks],
        "clean": clean_scores(measured, found, bootstrap) if found else {},
        "needle": needle_map(measured),
    }
    ctx.log.info("verdict", passed=verdict["passed"], failed=[check.name for check in checks if not check.passed])
    failed = sum(not check.passed for check in checks)
    counts = {"passed": int(verdict["passed"]), "checks": len(checks), "failed": failed}
    ctx.metrics({f"gate/{name}": float(count) for name, count in counts.items()})
    files, shown = ctx.workdir / "verdict", ctx.workdir / "page"
    files.mkdir()
    shown.mkdir()
    (files / VERDICT).write_bytes(orjson.dumps(verdict, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
    (files / VERDICT_TEXT).write_text(as_text(verdict), "utf-8")
    (shown / PAGE).write_text(page(verdict), "utf-8")
    told = ctx.write_files("report", shown)
    ctx.events.artifact(PAGE, told.shards[0].blob)
    return {"output": ctx.write_files("verdict", files, counts=counts), "page": told}


def _limits(config: GateConfig, measured: Measured) -> Iterator[Check]:
    for name, limits in sorted(config.limits.items()):
        wanted = " and ".join(
            text for text in (
                f"≥ {limits.min:g}" if limits.min is not None else "",
                f"≤ {limits.max:g}" if limits.max is not None else "",
            ) if text
        )  # fmt: skip
        suite = measured.suites.get(name)
        if suite is None:
            yield Check(name, None, wanted, False, "the evaluation has no number for it")
            continue
        value = suite["value"]
        if value is None:
            yield Check(name, None, wanted, False, "no finite value was measured: it diverged, or nothing was graded")
            continue
        passed = (limits.min is None or value >= limits.min) and (limits.max is None or value <= limits.max)
        spread = f"{suite['metric']} {value:.4g} [{suite['ci_low']:.4g}, {suite['ci_high']:.4g}] on {suite['n']}"
        yield Check(name, value, wanted, passed, spread)


def _references(config: GateConfig, measured: Measured, others: dict[str, Measured]) -> Iterator[Check]:
    for label, limits in sorted(config.references.items()):
        other = others.get(label)
        if other is None:
            yield Check(
                f"against {label}", None, "an evaluation", False, f"no reference evaluation is labelled {label!r}"
            )
            continue
        yield from _owed(config, limits, label, measured, other)


def _current(config: GateConfig, measured: Measured, current: Measured | None) -> Iterator[Check]:
    """What is owed to the model in use. Where the candidate is that model, there is nothing to lose."""
    if config.current is None:
        return
    if current is None:
        yield Check("against current", None, "an evaluation", False, "nobody looked for the model in use")
    elif current.facts["model"] == measured.facts["model"]:
        yield Check("against current", None, "an evaluation", True, "no other model is in use")
    else:
        yield from _owed(config, config.current, "current", measured, current)


def _owed(
    config: GateConfig, limits: ReferenceLimits, label: str, measured: Measured, other: Measured
) -> Iterator[Check]:
    if other.facts["questions"] != measured.facts["questions"]:
        raise InputError(
            f"{measured.label} and {label} answered different questions: evaluate both on the same artifact"
        )
    patterns = (*limits.no_regression, *limits.max_perplexity_ratio)
    for name in missing(patterns, other.suites):
        yield Check(f"{name} against {label}", None, "a number", False, f"it was not measured on {label}")
    if patterns and not matching(patterns, other.suites):
        told = f"nothing of {', '.join(patterns)} was measured on {label}"
        yield Check(f"against {label}", None, "a number", False, told)
    yield from _no_regression(config, limits, label, measured, other)
    yield from _perplexity(limits, label, measured, other)


def _template(config: GateConfig, tokenizer: Path | None) -> Iterator[Check]:
    """What a server makes of a chat must be what the model was trained on, token for token."""
    if not config.template:
        return
    if tokenizer is None:
        yield Check("chat template", None, "the training's ids", False, "no tokenizer was given")
        return
    from tokenmill.model.parity import GOLDEN_CHATS, differing

    wrong = differing(tokenizer)
    equal = len(GOLDEN_CHATS) - len(wrong)
    told = f"on chats {', '.join(map(str, wrong))} it gives other ids" if wrong else f"equal on {equal} chats"
    yield Check("chat template", equal / len(GOLDEN_CHATS), "the training's ids", not wrong, told)


def _no_regression(
    config: GateConfig, limits: ReferenceLimits, label: str, measured: Measured, other: Measured
) -> Iterator[Check]:
    """The same questions, answered by both: the difference a question is what the bootstrap resamples."""
    bootstrap = Bootstrap(config.resamples, config.confidence, config.seed)
    for name in matching(limits.no_regression, other.suites):
        theirs = other.predictions[name]
        mine = measured.predictions.get(name, {})
        if mine.keys() != theirs.keys():
            yield Check(
                f"{name} against {label}", None, "the same questions", False, "it was not measured on the candidate"
            )
            continue
        if not (both := scored((mine[i], theirs[i]) for i in sorted(mine))):
            told = "the judge graded no question of both"
            yield Check(f"{name} against {label}", None, "the same questions", False, told)
            continue
        change = bootstrap.mean([a - b for a, b in both])
        spread = f"change {change.value:+.4g} [{change.low:+.4g}, {change.high:+.4g}] on {len(both)}"
        spread += _forms(name, measured, other)
        passed = change.high >= -limits.tolerance
        yield Check(
            f"{name} against {label}",
            _short(change.value),
            f"not below {-limits.tolerance or 0:g} beyond chance",
            passed,
            spread,
        )


def _forms(suite: str, measured: Measured, other: Measured) -> str:
    """Of a suite that each model was asked in a form of its own: which, for the change is then the form's as well."""
    forms = measured.facts["form"], other.facts["form"]
    if forms[0] == forms[1] or suite_of(suite)[0] not in ASKED_IN_FORM:
        return ""
    return f"; asked in another form each: {measured.label} {forms[0]}, {other.label} {forms[1]}"


def _perplexity(limits: ReferenceLimits, label: str, measured: Measured, other: Measured) -> Iterator[Check]:
    """The same text, predicted by both, a token of the reference's: of another tokenizer a token's loss says nothing."""
    for name, bound in sorted(strictest(limits.max_perplexity_ratio, other.suites).items()):
        check, wanted = f"{name} against {label}", f"≤ {bound:g} ×"
        if name not in measured.suites:
            yield Check(check, None, wanted, False, "it was not measured on the candidate")
            continue
        theirs, mine = other.predictions.get(name, {}), measured.predictions.get(name, {})
        same = [(mine[i], row) for i, row in theirs.items() if _read_alike(mine.get(i), row)]
        if 2 * len(same) < max(len(mine), len(theirs), 1):
            told = f"both read {len(same)} of {max(len(mine), len(theirs))} texts to the same end: too few to compare"
            yield Check(check, None, wanted, False, told)
            continue
        losses = [sum(row["loss"] for row in rows) for rows in zip(*same, strict=True)]
        read, tokens = (sum(row[unit] for _, row in same) for unit in ("bytes", "tokens"))
        ratio = math.exp((losses[0] - losses[1]) / tokens)
        bits = " against ".join(f"{loss / read / math.log(2):.4g}" for loss in losses)
        told = f"{bits} bits a byte of {len(same)} texts"
        yield Check(check, _short(ratio), wanted, ratio <= bound, told)


def _read_alike(mine: dict[str, Any] | None, theirs: dict[str, Any]) -> bool:
    """Whether two losses are of the same text: one that is longer than a context is cut, where that is counted in tokens."""
    return mine is not None and 0 < mine.get("bytes", 0) == theirs.get("bytes", 0)


MIN_SPLIT = 16
"""Samples that a split needs before its mean loss says anything."""


def _deltas(config: GateConfig, measured: Measured) -> Iterator[Check]:
    """Outliers as in report §5.4: beyond the limit, and beyond chance."""
    every = (("Δ1", "delta1", config.max_delta1), ("Δ2", "delta2", config.max_delta2))
    asked = [(sign, name, limit) for sign, name, limit in every if limit is not None]
    suites = sorted(measured.facts["contamination"].items())
    if not suites:
        for sign, _, limit in asked:
            yield Check(sign, None, f"|Δ| ≤ {limit:g}", False, "the evaluation has no losses on a test and its like")
    for suite, splits in suites:
        for sign, name, limit in asked:
            delta = splits.get(name)
            if delta is None or delta["value"] is None:
                yield Check(f"{sign} {suite}", None, f"|Δ| ≤ {limit:g}", False, "no split to compare with was measured")
                continue
            fewest = min((splits[split]["n"], split) for split in DELTAS[name])
            if fewest[0] < MIN_SPLIT:
                told = f"{fewest[0]} {fewest[1]} samples are too few to tell; {MIN_SPLIT} are the least"
                yield Check(f"{sign} {suite}", delta["value"], f"|Δ| ≤ {limit:g}", False, told)
                continue
            value, error = delta["value"], delta["se"]
            outlier = is_outlier(value, error, limit, config.delta_sigmas)
            least = smallest(error, limit, config.delta_sigmas)
            told = f"{value:+.4g} ± {error:.2g} nats a token; these samples show none below {least:.2g}"
            yield Check(f"{sign} {suite}", value, f"|Δ| ≤ {limit:g}", not outlier, told)


def _short(value: float) -> float:
    return float(f"{value:.7g}")
