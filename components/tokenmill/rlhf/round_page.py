"""A round of RLHF as a page that needs nothing from anywhere: what was decided and why, what changed, which tricks."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Template

from tokenmill.records import Record
from tokenmill.report.charts import Series, line_chart, number
from tokenmill.report.templates import template

if TYPE_CHECKING:
    from tokenmill.rlhf.decide import Ruling

CURVES = {
    "reward": "Reward an answer",
    "kl": "KL an answer, nats",
    "length": "Tokens an answer",
    "entropy": "Entropy, nats a token",
    "clipped": "Share of tokens beyond the clip",
    "value_loss": "Value loss",
    "explained_variance": "Explained variance of the critic",
}
"""Fields of PPO's log that are drawn, where it has them."""
MEASURES = {
    "reward": ("Reward on held-out queries", "{:+.2f}"),
    "length": ("Tokens an answer", "{:.1f}"),
    "gold": ("Right answers to gold questions", "{:.0%}"),
    "format": ("Answers in the wanted form", "{:.0%}"),
}
"""What the probe measures before and after, and how it is written."""
_PAIRS = 5


def page(
    title: str,
    report: Mapping[str, Any],
    ruling: "Ruling",
    log: Sequence[Mapping[str, Any]],
    patches: Sequence[Record],
) -> str:
    """The page, as HTML.

    Args:
        title: which round.
        report: the probe's.
        ruling: what follows from it.
        log: PPO's, a record an iteration.
        patches: pairs against the hacks.
    """
    return _template().render(
        title=title,
        ruling=ruling,
        rows=[
            {"name": name, "before": form.format(report[f"{key}_before"]), "after": form.format(report[f"{key}_after"])}
            for key, (name, form) in MEASURES.items()
            if f"{key}_before" in report
        ],
        report=report,
        charts=[(name, chart) for field, name in CURVES.items() if (chart := _curve(log, field))],
        hacks=[
            hack | {"shown": [pair for pair in patches if pair["template"] == f"patch: {hack['pattern']}"][:_PAIRS]}
            for hack in report["hacks"]
        ],
    )


def _curve(log: Sequence[Mapping[str, Any]], field: str) -> str:
    points = [(i, record[field]) for i, record in enumerate(log) if field in record]
    return line_chart([Series(field.replace("_", " "), points)], x_label="optimizer steps") if points else ""


@cache
def _template() -> Template:
    filters = {"number": number, "share": "{:.0%}".format, "words": lambda name: name.replace("_", " ")}
    return template(Path(__file__).with_name("round.html.j2"), **filters)
