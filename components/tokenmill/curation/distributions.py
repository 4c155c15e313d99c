"""Histograms of what a funnel did to the text: the documents' statistics before and after."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from tokenmill.curation.statistics import SHAPES, Shape
from tokenmill.curation.survey import Sampled

BINS = 30


def distributions(before: Sequence[Sampled], after: Sequence[Sampled]) -> dict[str, Any]:
    """Group (en, zh, code) → its statistics' histograms before and after; groups of the largest sample first."""
    sizes = Counter(one.group for one in before) + Counter(one.group for one in after)
    groups = {}
    for name, _ in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        sides = [[one for one in sample if one.group == name] for sample in (before, after)]
        drawn = {
            shape.key: _drawn(shape, *([getattr(o.values, shape.key) for o in side] for side in sides))
            for shape in SHAPES
        }
        groups[name] = {
            "documents": {"before": len(sides[0]), "after": len(sides[1])},
            "statistics": {key: histogram for key, histogram in drawn.items() if histogram},
        }
    return groups


def _drawn(shape: Shape, before: Sequence[float | None], after: Sequence[float | None]) -> dict[str, Any] | None:
    told: dict[str, Any] = {"edges": [float(f"{edge:.4g}") for edge in edges(shape)]}
    for side, given in (("before", before), ("after", after)):
        values = [value for value in given if value is not None]
        told[side] = histogram(values, shape)
        told[f"median_{side}"] = float(f"{median(values):.4g}") if values else None
    return told if any(told["before"]) or any(told["after"]) else None


def edges(shape: Shape) -> list[float]:
    steps = [i / BINS for i in range(BINS + 1)]
    if shape.log:
        return [shape.low * (shape.high / shape.low) ** step for step in steps]
    return [shape.low + (shape.high - shape.low) * step for step in steps]


def histogram(values: Iterable[float], shape: Shape) -> list[int]:
    """Documents a bin; what lies outside counts in the first or last."""
    bins, bounds = [0] * BINS, edges(shape)
    for value in values:
        bins[min(max(bisect_right(bounds, value) - 1, 0), BINS - 1)] += 1
    return bins
