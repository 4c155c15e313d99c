"""Before and after, a capability group: what a stage of training gave and what it took (report §5.2, Figure 12).

Both models answered the same questions, so a difference is measured question by question: its standard error is the
bootstrap's over those differences, which is smaller than that of two separate means.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from statistics import NormalDist
from typing import Any, Literal

import orjson

from tokenmill.errors import InputError
from tokenmill.evaluation.config import CompareConfig
from tokenmill.evaluation.measured import Measured, scored
from tokenmill.evaluation.statistics import Bootstrap
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import StepContext, step

COMPARISON, COMPARISON_TEXT = "comparison.json", "comparison.md"
OTHER = "other"
"""The group of suites that no group names."""
Measure = Literal["score", "loss"]
"""score: share of questions answered right, more is better; loss: nats a token, less is better."""


@dataclass(frozen=True)
class Change:
    """One measure, before and after."""

    name: str
    """Of a suite, or of a group: then it is the mean over its suites."""
    measure: Measure
    before: float | None
    after: float | None
    difference: float | None
    se: float | None
    """Standard error of the difference. None, as the numbers, where a model gave no finite loss."""
    low: float | None
    high: float | None
    """The difference's interval, `confidence` of it: of a suite the bootstrap's, of a group that of its standard error."""
    n: int
    """Questions of a suite, suites of a group."""

    @property
    def better(self) -> bool | None:
        """Beyond two standard errors; None within them."""
        if self.difference is None or self.se is None or abs(self.difference) <= 2 * self.se:
            return None
        return (self.difference > 0) == (self.measure == "score")


@step(
    "evaluation.compare",
    version=2,
    libraries=("numpy",),
    kinds={"before": "evaluation", "after": "evaluation"},
)
def compare(config: CompareConfig, before: Manifest, after: Manifest, ctx: StepContext) -> Draft:
    """Means a group and a suite of two evaluations, their differences and how sure those are."""
    old, new = Measured.read(before, ctx), Measured.read(after, ctx)
    for name in ("questions", "tokenizer", "form"):
        if old.facts[name] != new.facts[name]:
            raise InputError(
                f"evaluations {before.digest[:12]} and {after.digest[:12]} have another {name} each: run "
                f"evaluation.evaluate for both models with the same {name}"
            )
    suites = list(_suites(config, old, new))
    if not suites:
        raise InputError(f"{before.digest[:12]} and {after.digest[:12]} have no suite in common to compare")
    groups = list(_groups(config, suites))
    _tell(ctx, groups)
    compared = {
        side: {name: one.facts[name] for name in ("label", "model", "form")}
        for side, one in (("before", old), ("after", new))
    }
    report = compared | {
        "confidence": config.confidence,
        "groups": [asdict(group) | {"better": group.better} for group in groups],
        "suites": [asdict(s) | {"better": s.better, "group": group_of(s.name, config.groups)} for s in suites],
        "flips": {
            s.name: flips(old.predictions[s.name], new.predictions[s.name]) for s in suites if s.measure == "score"
        },
    }
    folder = ctx.workdir / "comparison"
    folder.mkdir()
    (folder / COMPARISON).write_bytes(orjson.dumps(report, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
    (folder / COMPARISON_TEXT).write_text(as_text(old.label, new.label, groups, suites), "utf-8")
    counts = {
        "groups": len(groups),
        "better": sum(group.better is True for group in groups),
        "worse": sum(group.better is False for group in groups),
    }
    return ctx.write_files("comparison", folder, counts=counts)


def flips(before: Mapping[str, dict[str, Any]], after: Mapping[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Questions whose score rose and fell, by their ids."""
    pairs = {id: scored([(after[id], before[id])]) for id in sorted(before)}
    changes = {id: pair[0][0] - pair[0][1] for id, pair in pairs.items() if pair}
    return {"gained": [id for id, x in changes.items() if x > 0], "lost": [id for id, x in changes.items() if x < 0]}


def group_of(suite: str, groups: Mapping[str, Sequence[str]]) -> str:
    """The first group that names the suite."""
    return next((name for name, patterns in groups.items() if any(fnmatchcase(suite, p) for p in patterns)), OTHER)


def _suites(config: CompareConfig, old: Measured, new: Measured) -> Iterator[Change]:
    """The suites of both; contamination's splits are no capability."""
    bootstrap = Bootstrap(config.resamples, config.confidence, config.seed)
    for suite in sorted(set(old.facts["suites"]) & set(new.facts["suites"])):
        mine, theirs = old.predictions[suite], new.predictions[suite]
        if set(mine) != set(theirs):
            raise InputError(f"{suite}: the two models were not asked the same questions; evaluate both again")
        yield _change(suite, [(mine[id], theirs[id]) for id in sorted(mine)], bootstrap)


def _change(suite: str, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], bootstrap: Bootstrap) -> Change:
    """A suite's change; of losses, a document counts as its tokens do."""
    if suite.startswith("perplexity/"):
        weights = [float(a["tokens"]) for a, _ in pairs]
        values = [tuple(_number(p["loss"]) / p["tokens"] for p in pair) for pair in pairs]
        measure: Measure = "loss"
    else:
        values, measure = scored(pairs), "score"
        weights = [1.0] * len(values)
    if not values or not all(math.isfinite(x) for pair in values for x in pair):
        return Change(suite, measure, None, None, None, None, None, None, len(values))
    before, after = (
        sum(w * x for w, x in zip(weights, side, strict=True)) / sum(weights) for side in zip(*values, strict=True)
    )
    differences = [b - a for a, b in values]
    error, interval = bootstrap.standard_error(differences, weights), bootstrap.mean(differences, weights)
    before, after, difference, error = map(_round, (before, after, after - before, error))
    low, high = _round(interval.low), _round(interval.high)
    return Change(suite, measure, before, after, difference, error, low, high, len(values))


def _groups(config: CompareConfig, suites: Sequence[Change]) -> Iterator[Change]:
    """A group's mean over its suites, each once, whatever its size (report: "report as means"); scores and losses apart."""
    sigmas = NormalDist().inv_cdf((1 + config.confidence) / 2)
    for name in (*config.groups, OTHER):
        for measure in ("score", "loss"):
            own = [s for s in suites if s.measure == measure and group_of(s.name, config.groups) == name]
            if own:
                sums = {field: _sum(getattr(s, field) for s in own) for field in ("before", "after", "difference")}
                squares = _sum(None if s.se is None else s.se**2 for s in own)
                error = None if squares is None else _round(math.sqrt(squares) / len(own))
                means = {field: None if x is None else _round(x / len(own)) for field, x in sums.items()}
                middle = means["difference"]
                reach = (
                    None if middle is None or error is None else [_round(middle + x * error) for x in (-sigmas, sigmas)]
                )
                low, high = reach or (None, None)
                yield Change(name, own[0].measure, **means, se=error, low=low, high=high, n=len(own))


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found else sum(x for x in found if x is not None)


def _tell(ctx: StepContext, groups: Sequence[Change]) -> None:
    """For MLflow: `comparison/coding/loss/difference` and its like."""
    sides = ("before", "after", "difference", "se")
    values = {f"comparison/{g.name}/{g.measure}/{side}": getattr(g, side) for g in groups for side in sides}
    ctx.metrics({name: value for name, value in values.items() if value is not None})


def as_text(before: str, after: str, groups: Sequence[Change], suites: Sequence[Change]) -> str:
    """The comparison as a page."""
    lines = [f"# {before or 'before'} → {after or 'after'}", ""]
    lines += [
        "Scores are shares of right answers; losses are nats a token, less is better. ± is one standard error.",
        "",
    ]
    for title, changes in (("group", groups), ("suite", suites)):
        lines += [f"| {title} | | before | after | difference | n |", "|---|---|---|---|---|---|"]
        lines += [_line(change) for change in changes] + [""]
    return "\n".join(lines)


def _line(change: Change) -> str:
    cells = ["–" if x is None else f"{x:.4g}" for x in (change.before, change.after)]
    difference = (
        "–" if change.difference is None or change.se is None else f"{change.difference:+.4g} ± {change.se:.2g}"
    )
    word = {True: ", better", False: ", worse", None: ""}[change.better]
    return f"| {change.name} | {change.measure} | {cells[0]} | {cells[1]} | {difference}{word} | {change.n} |"


def _number(value: float | None) -> float:
    """A loss that was not finite is null in JSON."""
    return math.nan if value is None else value


def _round(value: float) -> float:
    return float(f"{value:.7g}")
