"""The gate: declared limits, held against what was measured; a verdict that a person can read.

Evidence that is missing fails a check: a gate that nobody fed must not open.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import orjson

from tokenmill.errors import InputError
from tokenmill.evaluation.config import GateConfig, ReferenceLimits
from tokenmill.evaluation.contamination import DECONTAMINATION
from tokenmill.evaluation.evaluate import DELTAS
from tokenmill.evaluation.measured import Measured
from tokenmill.evaluation.statistics import Bootstrap
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import StepContext, step

VERDICT, VERDICT_TEXT = "verdict.json", "verdict.md"


@dataclass(frozen=True)
class Check:
    """One question that the gate asks."""

    name: str
    value: float | None
    threshold: str
    passed: bool
    why: str


@step(
    "evaluation.gate",
    version=4,
    libraries=("numpy",),
    kinds={"candidate": "evaluation", "references": "evaluation", "decontamination": "decontamination"},
)
def gate(
    config: GateConfig,
    candidate: Manifest,
    references: list[Manifest] | None,
    decontamination: Manifest | None,
    ctx: StepContext,
) -> Draft:
    """Hold an evaluation against its limits, its references, and the training data of its model."""
    measured = Measured.read(candidate, ctx)
    others = {other.label: other for other in (Measured.read(reference, ctx) for reference in references or ())}
    overlap = ctx.read_json(decontamination, DECONTAMINATION) if decontamination else None
    checks = [
        *_limits(config, measured),
        *_references(config, measured, others),
        *_deltas(config, measured),
        *_overlap(config, measured, overlap),
    ]
    if not checks:
        raise InputError("evaluation.gate has nothing to check: set limits or references")
    verdict = {
        "passed": all(check.passed for check in checks),
        "label": measured.label,
        "model": measured.facts["model"],
        "candidate": candidate.content,
        "references": {label: other.facts["model"] for label, other in sorted(others.items())},
        "checks": [asdict(check) for check in checks],
    }
    ctx.log.info("verdict", passed=verdict["passed"], failed=[check.name for check in checks if not check.passed])
    folder = ctx.workdir / "verdict"
    folder.mkdir()
    (folder / VERDICT).write_bytes(orjson.dumps(verdict, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
    (folder / VERDICT_TEXT).write_text(as_text(verdict), "utf-8")
    failed = sum(not check.passed for check in checks)
    counts = {"passed": int(verdict["passed"]), "checks": len(checks), "failed": failed}
    return ctx.write_files("verdict", folder, counts=counts)


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
        if other.facts["questions"] != measured.facts["questions"]:
            raise InputError(
                f"{measured.label} and {label} answered different questions: evaluate both on the same artifact"
            )
        for name in [*limits.no_regression, *limits.max_perplexity_ratio]:
            if not _matching((name,), other) and not set(name) & set("*?["):
                yield Check(f"{name} against {label}", None, "a number", False, f"it was not measured on {label}")
        yield from _no_regression(config, limits, label, measured, other)
        yield from _perplexity(limits, label, measured, other)


def _no_regression(
    config: GateConfig, limits: ReferenceLimits, label: str, measured: Measured, other: Measured
) -> Iterator[Check]:
    """The same questions, answered by both: the difference a question is what the bootstrap resamples."""
    bootstrap = Bootstrap(config.resamples, config.confidence, config.seed)
    for name in _matching(limits.no_regression, other):
        theirs = other.predictions[name]
        mine = measured.predictions.get(name, {})
        if mine.keys() != theirs.keys():
            yield Check(
                f"{name} against {label}", None, "the same questions", False, "it was not measured on the candidate"
            )
            continue
        change = bootstrap.mean([mine[i]["score"] - theirs[i]["score"] for i in sorted(mine)])
        spread = f"change {change.value:+.4g} [{change.low:+.4g}, {change.high:+.4g}] on {len(mine)}"
        passed = change.high >= -limits.tolerance
        yield Check(
            f"{name} against {label}",
            _short(change.value),
            f"not below {-limits.tolerance or 0:g} beyond chance",
            passed,
            spread,
        )


def _perplexity(limits: ReferenceLimits, label: str, measured: Measured, other: Measured) -> Iterator[Check]:
    for name, bound in sorted(_strictest(limits.max_perplexity_ratio, other.suites).items()):
        mine, theirs = measured.suites.get(name), other.suites[name]
        if mine is None:
            yield Check(
                f"{name} against {label}", None, f"≤ {bound:g} ×", False, "it was not measured on the candidate"
            )
            continue
        ratio = mine["value"] / theirs["value"]
        told = f"perplexity {mine['value']:.4g} against {theirs['value']:.4g}"
        yield Check(f"{name} against {label}", _short(ratio), f"≤ {bound:g} ×", ratio <= bound, told)


def _matching(patterns: Sequence[str], other: Measured) -> list[str]:
    """The reference's suites that match a pattern."""
    return [name for name in sorted(other.suites) if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _strictest(bounds: Mapping[str, float], suites: Iterable[str]) -> dict[str, float]:
    """Suite → the lowest bound of all patterns that it matches."""
    matched = {suite: [b for pattern, b in bounds.items() if fnmatchcase(suite, pattern)] for suite in suites}
    return {suite: min(found) for suite, found in matched.items() if found}


MIN_SPLIT = 16
"""Samples that a split needs before its mean loss says anything."""


def _deltas(config: GateConfig, measured: Measured) -> Iterator[Check]:
    """Outliers as in report §5.4: beyond the limit, and beyond chance."""
    for suite, splits in sorted(measured.facts["contamination"].items()):
        for name, limit in (("delta1", config.max_delta1), ("delta2", config.max_delta2)):
            if limit is None:
                continue
            sign = "Δ1" if name == "delta1" else "Δ2"
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
            outlier = abs(value) > limit and abs(value) > config.delta_sigmas * error
            yield Check(
                f"{sign} {suite}", value, f"|Δ| ≤ {limit:g}", not outlier, f"{value:+.4g} ± {error:.2g} nats a token"
            )


def _overlap(config: GateConfig, measured: Measured, overlap: dict[str, Any] | None) -> Iterator[Check]:
    limits = config.max_contaminated
    if limits is None:
        return
    if overlap is None:
        yield Check("training data", None, "searched", False, "the training sets were not searched for the questions")
        return
    if not overlap["training_sets"]:
        yield Check("training data", None, "searched", False, "the model's lineage names no training data to search")
        return
    for key in ("model", "questions"):
        if overlap[key] != measured.facts[key]:
            raise InputError(
                f"the decontamination report is not about the candidate's {key}: run evaluation.contamination again"
            )
    bounds = _strictest(limits, overlap["suites"])
    if not bounds:
        yield Check("training data", None, "searched", False, f"no suite of {', '.join(limits)} was looked for")
    for suite, limit in sorted(bounds.items()):
        row = overlap["suites"][suite]
        told = f"{row['hits']} of {row['questions']} questions stand in {overlap['training_sets']} training sets"
        yield Check(f"{suite} in training data", row["share"], f"≤ {limit:g}", row["share"] <= limit, told)


def as_text(verdict: dict[str, Any]) -> str:
    """The verdict as a page: the answer first, then what failed, then everything."""
    word = "passed" if verdict["passed"] else "did not pass"
    failed = [check for check in verdict["checks"] if not check["passed"]]
    lines = [
        f"# {verdict['label']} {word}",
        "",
        f"Model `{verdict['model'][:12]}`, {len(verdict['checks'])} checks, {len(failed)} failed.",
        "",
    ]
    lines += [f"- **{check['name']}**: {check['why']}; wanted {check['threshold']}" for check in failed]
    lines += ["", "| check | value | wanted | | |", "|---|---|---|---|---|"]
    for check in verdict["checks"]:
        value = "–" if check["value"] is None else f"{check['value']:.4g}"
        mark = "✓" if check["passed"] else "✗"
        lines.append(f"| {check['name']} | {value} | {check['threshold']} | {mark} | {check['why']} |")
    return "\n".join(lines) + "\n"


def _short(value: float) -> float:
    return float(f"{value:.7g}")
