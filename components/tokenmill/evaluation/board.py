"""The board: models × suites with confidence intervals, and the report's own scores beside them (OpenCompass' CompassRank).

Scores are shares, 0 to 1, on the board as everywhere; the report's hundredths are divided. A reference row has no interval:
the report gives none, and how it was measured is said by each dataset's notes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from markupsafe import Markup

from tokenmill.errors import InputError
from tokenmill.evaluation.config import BoardConfig
from tokenmill.evaluation.evaluate import EVALUATION
from tokenmill.evaluation.hub import suite, suite_name
from tokenmill.manifest import Draft, Manifest
from tokenmill.report.charts import element
from tokenmill.steps import StepContext, effect

BOARD, TEXT, PAGE = "board.json", "board.md", "board.html"


@dataclass(frozen=True)
class Cell:
    """One score."""

    metric: str
    value: float | None
    """None where the model diverged."""
    low: float | None
    high: float | None
    n: int
    """Questions; 0 of a reference, whose report does not say."""
    bits_per_byte: float | None = None
    """Of a perplexity: the loss a byte, for models of different tokenizers."""


@dataclass(frozen=True)
class Row:
    """One model in one form."""

    model: str
    form: str
    reference: bool
    cells: dict[str, Cell]
    """By suite."""


@effect("evaluation.board", version=2, kinds={"evaluations": "evaluation"})
def board(config: BoardConfig, evaluations: list[Manifest], ctx: StepContext) -> Draft:
    """Put evaluations on one board: as JSON, table and page, and into the run's MLflow artifacts."""
    documents = [ctx.read_json(manifest, EVALUATION) for manifest in evaluations]
    references, columns = (reference_rows(config.suite), suite_columns(config.suite)) if config.suite else ([], [])
    models = model_rows(documents)
    columns = columns or sorted({name for row in models for name in row.cells})
    rows = [*references, *(row for row in models if row.cells.keys() & set(columns))]
    if not rows:
        raise InputError(
            "nothing to show on the board: no evaluation of its datasets was found; see `tokenmill eval run`"
        )
    folder = ctx.workdir / "board"
    folder.mkdir()
    told = {"suite": config.suite, "columns": columns, "rows": [asdict(row) for row in rows]}
    (folder / BOARD).write_bytes(orjson.dumps(told, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
    (folder / TEXT).write_text(as_text(rows, columns), "utf-8")
    (folder / PAGE).write_text(as_page(rows, columns, config.suite), "utf-8")
    draft = ctx.write_files("board", folder, counts={"models": len(rows) - len(references), "suites": len(columns)})
    for shard in draft.shards:
        ctx.events.artifact(shard.name, shard.blob, on="run")
    return draft


def model_rows(documents: Iterable[dict[str, Any]]) -> list[Row]:
    """A row a model and form; of one suite measured twice the last document counts."""
    cells: dict[tuple[str, str], dict[str, Cell]] = {}
    labels: dict[tuple[str, str], str] = {}
    for document in documents:
        key = (document["model"], document["form"])
        served = document.get("served_as") or ""
        labels[key] = document["label"] or served or labels.get(key) or f"model {document['model'][:8]}"
        for name, found in document["suites"].items():
            cells.setdefault(key, {})[name] = Cell(
                found["metric"],
                found["value"],
                found["ci_low"],
                found["ci_high"],
                found["n"],
                found.get("bits_per_byte"),
            )
    return [Row(labels[key], key[1], False, found) for key, found in sorted(cells.items(), key=lambda x: labels[x[0]])]


def suite_columns(name: str) -> list[str]:
    return [suite_name(dataset) for dataset in suite(name).datasets]


def reference_rows(name: str) -> list[Row]:
    """The report's scores of the suite's benchmarks, a row a model."""
    chosen = suite(name)
    scores = {suite_name(dataset): dataset.reference for dataset in chosen.datasets}
    return [
        Row(
            f"InternLM2-{model}",
            "report",
            True,
            {column: Cell("report", x[model] / 100, None, None, 0) for column, x in scores.items() if model in x},
        )
        for model in chosen.models
    ]


def as_text(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A table a person can read and paste: suites downwards, models to the right."""
    shown = [name for name in columns if any(name in row.cells for row in rows)]
    heads = ["suite", "metric", *(f"{row.model} ({row.form})" for row in rows)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name in shown:
        metrics = {row.cells[name].metric for row in rows if name in row.cells and not row.reference}
        cells = [_told(row.cells.get(name)) for row in rows]
        lines.append(f"| {' | '.join([name, ', '.join(sorted(metrics)) or '–', *cells])} |")
    return "\n".join(lines) + "\n"


def _told(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    if cell.value is None:
        return "diverged"
    spread = "" if cell.low is None else f" [{cell.low:.4g}, {cell.high:.4g}]"
    return f"{cell.value:.4g}{spread}" + (f", {_bits(cell)}" if cell.bits_per_byte is not None else "")


def _bits(cell: Cell) -> str:
    return f"{cell.bits_per_byte:.4g} bits a byte"


_STYLE = Markup(
    "body{font:15px system-ui,sans-serif;margin:2rem}table{border-collapse:collapse}"
    "th,td{padding:.35rem .7rem;border-bottom:1px solid #ccc;text-align:right;font-variant-numeric:tabular-nums}"
    "th:first-child,td:first-child{text-align:left}.reference{color:#777}small{color:#777}"
)


def as_page(rows: Sequence[Row], columns: Sequence[str], suite: str) -> str:
    """The board as a page of its own: models downwards, suites to the right, intervals below the numbers."""
    shown = [name for name in columns if any(name in row.cells for row in rows)]
    head = element("tr", element("th", "model"), *(element("th", name) for name in shown))
    body = [
        element(
            "tr",
            element("th", row.model, element("small", f" {row.form}")),
            *_cells(row, shown),
            class_="reference" if row.reference else "model",
        )
        for row in rows
    ]
    title = f"Board{': ' + suite if suite else ''}"
    table = element("table", element("thead", head), element("tbody", *body))
    note = (
        "Below a number: its confidence interval, and of a perplexity the bits a byte. Grey rows are the report's own scores, "
        "which come without one."
    )
    page = Markup(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>{}</title><style>{}</style>{}{}{}</html>'
    )
    return page.format(title, _STYLE, element("h1", title), table, element("p", note))


def _cells(row: Row, shown: Sequence[str]) -> Iterator[Markup]:
    for name in shown:
        cell = row.cells.get(name)
        if cell is None or cell.value is None:
            yield element("td", "–" if cell is None else "diverged")
            continue
        below = [] if cell.low is None else [f"{cell.low:.3g}–{cell.high:.3g}"]
        below += [_bits(cell)] if cell.bits_per_byte is not None else []
        lines = [part for text in below for part in (element("br"), element("small", text))]
        yield element(
            "td", f"{cell.value:.4g}", *lines, title=f"{cell.metric}, {cell.n} questions" if cell.n else "report"
        )
