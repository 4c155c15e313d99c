"""The data card for people: the same tables as a page that needs nothing from anywhere, and as Markdown."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from tokenmill.report.templates import template

Told = Mapping[str, Any]
REASONS = {
    "duplicate": "there twice",
    "taken_down": "taken down",
    "asked_by_evaluation": "holds a question of evaluation",
    "read_by_evaluation": "read by evaluation",
}


class Table(NamedTuple):
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    """Texts, numbers and, as a last float, the share that a bar shows."""


def tables(told: Told) -> Iterator[Table]:
    """What the card says, a table each; empty ones are left out."""
    yield Table(
        "Sources",
        ("source", "licence", "origin", "languages", "conversations"),
        [(s["source"], s["licence"], s["origin"], ", ".join(s["languages"]), s["records"]) for s in told["sources"]],
    )
    for title, name in (("Topics", "topics"), ("Languages", "languages"), ("With", "features")):
        if told[name]:
            yield Table(title, (title.lower(), "conversations", ""), _shares(told[name], told["records"]))
    answers = {"1 answer" if n == "1" else f"{n} answers": count for n, count in told["answers"].items()}
    yield Table("Turns", ("answers in a conversation", "conversations", ""), _shares(answers, told["records"]))
    yield Table("Lengths", ("characters", "conversations", ""), _shares(_bins(told["lengths"]), told["records"]))
    if told["dropped"]:
        rows = [
            (d["step"], reason(d["reason"]), d["records"], "; ".join(d.get("examples", ()))) for d in told["dropped"]
        ]
        yield Table("Left out", ("step", "why", "conversations", "the first"), rows)


def reason(name: str) -> str:
    """A reason in words."""
    return REASONS.get(name, name.replace("rejected:", "no conversation: "))


def lead(told: Told) -> str:
    """The card in a sentence."""
    return (
        f"{told['records']:,} conversations of {told['characters']:,} characters, {told['lengths']['median']:,} in the "
        f"middle one; {told['heldout']:,} more are held out. Topics are told by signs: tools, code, figures."
    )


def markdown(told: Told) -> str:
    """The card as Markdown."""
    lines = ["# Conversations", "", lead(told), ""]
    for table in tables(told):
        lines += [f"## {table.title}", "", _row(table.columns), _row(["---"] * len(table.columns))]
        lines += [_row(_shown(value) for value in row) for row in table.rows] + [""]
    return "\n".join(lines)


def html(told: Told) -> str:
    """The card as a page."""
    page = template(Path(__file__).with_name("card.html.j2"), shown=_shown)
    return page.render(lead=lead(told), tables=list(tables(told)))


def _shares(counts: Mapping[str, int], whole: int) -> list[tuple[Any, ...]]:
    return [(name, count, count / max(whole, 1)) for name, count in counts.items()]


def _bins(lengths: Told) -> dict[str, int]:
    edges = lengths["edges"]
    names = [f"{low:,} to {high - 1:,}" for low, high in pairwise(edges)] + [f"{edges[-1]:,} on"]
    counts = dict(zip(names, lengths["records"], strict=True))
    last = max((i for i, count in enumerate(counts.values()) if count), default=0)
    return dict(list(counts.items())[: last + 1])


def _shown(value: Any) -> str:
    """A cell: figures with their thousands, shares as percent."""
    if isinstance(value, float):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _row(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"
