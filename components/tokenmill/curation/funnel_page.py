"""The funnel as a page that needs nothing from anywhere: which stage loses what, why, and what it did to the corpus."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from tokenmill.curation.statistics import LONGEST, SHAPES, Shape
from tokenmill.report.charts import element, number
from tokenmill.report.templates import template

Told = Mapping[str, Any]
STATES = {
    "curation.ingest": "Format",
    "curation.filter": "Clean",
    "curation.strip_boilerplate": "Boilerplate",
    "curation.deduplicate": "Dedup",
    "curation.score": "Scored",
    "curation.screen": "Safe",
    "curation.grade": "High-quality",
    "curation.tier_code": "Code tiers",
    "curation.order_code": "Code order",
    "curation.select_long": "Long context",
}
"""The report's names of what a step makes."""
GROUPS = {"en": "English", "zh": "Chinese", "code": "Code"}
_SHADES = 7  # of drops; the first of the palette is what was kept
_SHOWN = 6


def page(told: Told) -> str:
    """The report of `funnel.report` as HTML."""
    stages = told["stages"]
    return _template().render(
        headline=headline(stages),
        stages=[bar(stage, stages[0]["in"]) for stage in stages],
        partitions=partitions(stages),
        groups=[group(name, one) for name, one in told["distributions"].items()],
        scores=[score(name, one, stages) for name, one in sorted(told["scores"].items())],
        states=[state(stage) for stage in stages],
        longest=LONGEST,
    )


@cache
def _template() -> Template:
    filters = {"number": number, "size": size, "percent": percent, "count": "{:,}".format, "words": words}
    return template(Path(__file__).with_name("funnel.html.j2"), **filters)


def state(stage: Told) -> str:
    return STATES.get(stage["step"], str(stage["step"]).rpartition(".")[2].replace("_", " "))


def headline(stages: Sequence[Told]) -> dict[str, Any]:
    """The funnel in one sentence."""
    first, last = stages[0], stages[-1]
    lost = {state(s): s["in"] - s["kept"] - s["joined"] for s in stages}
    worst = max(lost, key=lambda name: lost[name])
    came, gone = first["in"], sum(lost.values())
    return {
        "came": came,
        "kept": last["kept"],
        "survived": came - gone,
        "share": (came - gone) / came if came else 0.0,
        "joined": sum(s["joined"] for s in stages),
        "bytes_in": first["bytes"]["in"],
        "bytes_kept": last["bytes"]["kept"],
        "worst": worst if gone else "",
        "worst_share": lost[worst] / gone if gone else 0.0,
        "worst_lost": lost[worst],
    }


def bar(stage: Told, widest: int) -> dict[str, Any]:
    """One stage on the scale of all raw documents: kept, then each reason, the most frequent first."""
    reasons = [
        {
            **one,
            "shade": i % _SHADES + 2,
            "width": 100 * one["documents"] / max(widest, 1),
            "examples": [example(shown) for shown in one["examples"]],
        }
        for i, one in enumerate(stage["reasons"])
    ]
    lost = stage["in"] - stage["kept"] - stage["joined"]
    return {
        **stage,
        "name": state(stage),
        "lost": lost,
        "lost_share": lost / stage["in"] if stage["in"] else 0.0,
        "of_raw": (stage["kept"] + stage["joined"]) / widest if widest else 0.0,
        "kept_width": 100 * (stage["kept"] + stage["joined"]) / max(widest, 1),
        "reasons": reasons,
        "first": reasons[:_SHOWN],
        "rest": sum(r["documents"] for r in reasons[_SHOWN:]),
        "n_rest": len(reasons[_SHOWN:]),
        "changed": stage["bytes"]["kept"] + stage["bytes"]["dropped"] - stage["bytes"]["in"],
    }


def example(one: Told) -> dict[str, str]:
    """A dropped document in a line: the decision, and where it came from."""
    decision = "" if one["value"] is None else words(one["value"])
    if decision and one["threshold"] is not None:
        decision += f" against {words(one['threshold'])}"
    place = one.get("where") or "/".join(one[name] for name in ("source", "path") if name in one)
    origin = [place, f"dump {one['dump']}" if "dump" in one else "", one.get("url", "")]
    return {
        "id": one.get("id", ""),
        "decision": decision,
        "origin": " · ".join(filter(None, origin)),
        "survivor": one.get("survivor", ""),
        "excerpt": one["excerpt"],
    }


def partitions(stages: Sequence[Told]) -> list[dict[str, Any]]:
    """Type and language by stage; what has no language was never text."""
    names = sorted({name for stage in stages for name in stage["partitions"]})
    rows = []
    for name in names:
        cells = [stage["partitions"].get(name, {"kept": _NONE, "dropped": _NONE}) for stage in stages]
        came = cells[0]["kept"]["documents"] + cells[0]["dropped"]["documents"]
        kind, _, lang = name.partition("/")
        lost = sum(cell["dropped"]["documents"] for cell in cells)
        rows.append(
            {
                "type": kind,
                "lang": lang,
                "came": came,
                "cells": cells,
                "lost": lost,
                "share": 1 - lost / came if came else None,
            }
        )
    return sorted(rows, key=lambda row: (-row["came"], row["type"], row["lang"]))


_NONE = {"documents": 0, "bytes": 0}


def group(name: str, told: Told) -> dict[str, Any]:
    charts = []
    for shape in SHAPES:
        one = told["statistics"].get(shape.key)
        if one:
            mode = shape.mode if name == "en" else None
            charts.append({"title": shape.title, "drawn": histogram(shape, one, mode), "mode": mode, **one})
    return {"name": GROUPS.get(name, name), "code": name == "code", "charts": charts, **told["documents"]}


def score(name: str, one: Told, stages: Sequence[Told]) -> dict[str, Any]:
    """A score's distribution, and what was dropped for it."""
    shape = Shape(name, name.replace("_", " "), 0, 1)
    dropped = sum(stage["dropped"].get(reason, 0) for stage in stages for reason in (name, f"low_{name}"))
    return {
        **one,
        "title": shape.title,
        "drawn": histogram(shape, {**one, "median_before": None, "median_after": None}, None),
        "documents": sum(one["before"]),
        "dropped": dropped,
        "by": f"scorer {', '.join(d[:12] for d in one['scorers'])}" if one["scorers"] else one["step"],
    }


def histogram(shape: Shape, one: Told, mode: float | None) -> Markup:
    """Shares a bin: a filled shape after, an outline before, and a mark where WanJuan-CC has its mode."""
    width, height, left, top, bottom = 310.0, 108.0, 4.0, 6.0, 18.0
    low, high = one["edges"][0], one["edges"][-1]
    sides = {side: [n / max(sum(one[side]), 1) for n in one[side]] for side in ("before", "after")}
    tallest = max(map(max, sides.values())) or 1.0

    def px(value: float) -> float:
        place = math.log(value / low) / math.log(high / low) if shape.log else (value - low) / (high - low)
        return left + min(max(place, 0.0), 1.0) * (width - 2 * left)

    def outline(shares: Sequence[float]) -> str:
        floor = height - bottom
        points = [f"{left:.1f},{floor:.1f}"]
        for share, start, end in zip(shares, one["edges"], one["edges"][1:], strict=False):
            y = floor - share / tallest * (floor - top)
            points += [f"{px(start):.1f},{y:.1f}", f"{px(end):.1f},{y:.1f}"]
        return " ".join([*points, f"{width - left:.1f},{floor:.1f}"])

    parts = [
        element("polygon", class_="after", points=outline(sides["after"])),
        element("polyline", class_="before", points=outline(sides["before"])),
        element("line", class_="base", x1=left, x2=width - left, y1=height - bottom, y2=height - bottom),
    ]
    if mode is not None:
        tip = element("title", f"WanJuan-CC has its mode at {number(mode)}")
        parts.append(element("line", tip, class_="mode", x1=px(mode), x2=px(mode), y1=top, y2=height - bottom))
    ticks = (
        [10**n for n in range(round(math.log10(low)), round(math.log10(high)) + 1)]
        if shape.log
        else [low, (low + high) / 2, high]
    )
    for value in ticks:
        anchor = {ticks[0]: "start", ticks[-1]: "end"}.get(value, "middle")
        label = f"{value // 1000}K" if shape.log and 1000 <= value < 1_000_000 else number(value)
        parts.append(element("text", label, x=px(value), y=height - 4, text_anchor=anchor))
    told = " → ".join("none" if (m := one[f"median_{s}"]) is None else number(m) for s in ("before", "after"))
    return element(
        "svg", *parts, viewBox=f"0 0 {width:.0f} {height:.0f}", role="img", aria_label=f"{shape.title}, median {told}"
    )


def size(n_bytes: float) -> str:
    """`812 B`, `6.5 MB`, `1.2 TB`: decimal, as the report counts."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g}\N{NO-BREAK SPACE}{unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g}\N{NO-BREAK SPACE}TB"


def percent(share: float) -> str:
    """Two digits that say something: 94%, 3.5%, 0.02%."""
    if share and share < 0.0001:
        return "< 0.01%"
    if 0.995 <= share < 1:
        return f"{min(100 * share, 99.99):.2f}%"
    return f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.1f}%".replace(".0%", "%")


def words(value: Any) -> str:
    """A value or threshold as a person would write it."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
