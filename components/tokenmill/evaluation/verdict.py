"""A verdict: what the gate asked, what it found, and on what evidence; for programs, and for people to read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tokenmill.evaluation.needle import heat_map


@dataclass(frozen=True)
class Check:
    """One question that the gate asks."""

    name: str
    value: float | None
    threshold: str
    passed: bool
    why: str
    evidence: tuple[str, ...] = ()
    """Digests of the manifests that it rests on, e.g. of the training sets in which a question was found."""


def as_text(verdict: Mapping[str, Any]) -> str:
    """The verdict as Markdown: the answer first, then what failed, then everything."""
    word = "passed" if verdict["passed"] else "did not pass"
    failed = [check for check in verdict["checks"] if not check["passed"]]
    lines = [
        f"# {verdict['label']} {word}",
        "",
        f"Model `{verdict['model'][:12]}`, {len(verdict['checks'])} checks, {len(failed)} failed.",
        "",
    ]
    for check in failed:
        rests = f" (see {', '.join(f'`{d[:12]}`' for d in check['evidence'])})" if check["evidence"] else ""
        lines.append(f"- **{check['name']}**: {check['why']}; wanted {check['threshold']}{rests}")
    lines += ["", "| check | value | wanted | | |", "|---|---|---|---|---|"]
    for check in verdict["checks"]:
        mark = "✓" if check["passed"] else "✗"
        name, threshold, why = (check[key].replace("|", r"\|") for key in ("name", "threshold", "why"))
        lines.append(f"| {name} | {shown(check['value'])} | {threshold} | {mark} | {why} |")
    if verdict["clean"]:
        lines += ["", "Scores on the questions that the model's training data do not give away:", ""]
        lines += ["| suite | all | n | clean | n |", "|---|---|---|---|---|"]
        for suite, row in verdict["clean"].items():
            lines.append(f"| {suite} | {interval(row['all'])} | {row['all']['n']} | {interval(row)} | {row['n']} |")
    if needle := verdict.get("needle"):
        depths = sorted({depth for row in needle.values() for depth in row}, key=float)
        lines += ["", "A needle in a haystack, score by length in tokens and depth in percent:", ""]
        lines += [f"| tokens | {' | '.join(depths)} |", "|---" * (len(depths) + 1) + "|"]
        for length, row in needle.items():
            lines.append(f"| {length} | {' | '.join(shown(row.get(depth)) for depth in depths)} |")
    return "\n".join(lines) + "\n"


def page(verdict: Mapping[str, Any]) -> str:
    """The verdict as a page that needs nothing from anywhere: the KFP UI shows it, MLflow keeps it."""
    environment = Environment(
        loader=PackageLoader("tokenmill.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "interval": interval}
    ordered = sorted(verdict["checks"], key=lambda check: bool(check["passed"]))
    needle = {(int(n), float(d)): score for n, row in verdict.get("needle", {}).items() for d, score in row.items()}
    drawn = heat_map(needle) if needle else ""
    return environment.get_template("verdict.html.j2").render(verdict=verdict, checks=ordered, needle=drawn)


def shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def interval(numbers: Mapping[str, Any]) -> str:
    """`0.31 [0.2, 0.42]`; a dash where nothing was measured."""
    if numbers["value"] is None:
        return "–"
    return f"{numbers['value']:.4g} [{numbers['ci_low']:.4g}, {numbers['ci_high']:.4g}]"
