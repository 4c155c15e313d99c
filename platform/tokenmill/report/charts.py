"""Small drawings in SVG: no library, no script, colours from the page's style so that light and dark both work."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

MAX_POINTS = 240  # a line of more points than pixels only makes the page heavy


class Series(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]
    shade: int = 1  # 1…8, a colour of the page's palette
    dots: bool = False  # few, separate measurements


def line_chart(
    series: Sequence[Series], *, x_label: str, width: int = 480, height: int = 230, y_zero: bool = False
) -> Markup:
    """Lines over a common x axis; each is named, with its last value, at its end."""
    drawn = [Series(s.name, finite(s.points), s.shade, s.dots) for s in series]
    drawn = [s for s in drawn if s.points]
    if not drawn:
        return Markup("")
    left, right, top, bottom = 46, 108, 12, 34
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points]
    x_low, x_high = span(min(xs), max(xs))
    y_ticks = ticks(min([*ys, 0.0]) if y_zero else min(ys), max(ys))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def px(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (width - left - right)

    def py(y: float) -> float:
        return height - bottom - (y - y_low) / (y_high - y_low) * (height - top - bottom)

    parts = []
    for y in y_ticks:
        parts.append(element("line", class_="grid", x1=left, x2=width - right, y1=py(y), y2=py(y)))
        parts.append(element("text", number(y), class_="tick", x=left - 8, y=py(y) + 4, text_anchor="end"))
    for x in [t for t in ticks(x_low, x_high, 5) if x_low <= t <= x_high]:
        parts.append(element("text", number(x), class_="tick", x=px(x), y=height - bottom + 17, text_anchor="middle"))
    middle = (left + width - right) / 2
    parts.append(element("text", x_label, class_="axis", x=middle, y=height - 3, text_anchor="middle"))
    for s in drawn:
        points = thin(s.points)
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        parts.append(element("polyline", class_=f"line s{s.shade}{' dashed' if s.dots else ''}", points=path))
        for x, y in points if s.dots else points[-1:]:
            tip = element("title", f"{s.name} {number(y)} at {number(x)}")
            parts.append(element("circle", tip, class_=f"dot s{s.shade}", cx=px(x), cy=py(y), r=3))
    for s, y in zip(drawn, _apart([py(s.points[-1][1]) for s in drawn], 28, top + 8, height - bottom - 8), strict=True):
        x = width - right + 10
        parts.append(element("text", s.name, class_=f"label s{s.shade}", x=x, y=y))
        parts.append(element("text", number(s.points[-1][1]), class_="value", x=x, y=y + 13))
    said = _said(drawn, x_label)
    return element("svg", *parts, class_="chart", viewBox=f"0 0 {width} {height}", role="img", aria_label=said)


def interval_bar(
    value: float, low: float | None, high: float | None, domain: tuple[float, float], *, width: int = 150
) -> Markup:
    """A value with its confidence interval on a common scale."""
    left, right = span(*domain)

    def px(x: float) -> float:
        return 6 + (min(max(x, left), right) - left) / (right - left) * (width - 12)

    parts = [element("line", class_="grid", x1=6, x2=width - 6, y1=9, y2=9)]
    if low is not None and high is not None:
        parts.append(element("line", class_="whisker", x1=px(low), x2=px(high), y1=9, y2=9))
    parts.append(element("circle", class_="dot s1", cx=px(value), cy=9, r=4))
    return element(
        "svg", *parts, class_="interval", viewBox=f"0 0 {width} 18", width=width, height=18, aria_hidden="true"
    )


def element(name: str, *children: str, **attributes: object) -> Markup:
    """An element with everything in it escaped. `class_` is class, `text_anchor` text-anchor."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), f"{v:.1f}" if isinstance(v, float) else v)
        for key, v in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, Markup("").join(children))


def finite(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without what cannot be drawn: a diverged loss."""
    return [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points with the same outline: of each stretch its lowest and its highest; first and last stay."""
    if len(points) <= limit:
        return list(points)
    stretches = max(1, (limit - 2) // 2)
    kept = [points[0]]
    inner = points[1:-1]
    for i in range(stretches):
        part = inner[i * len(inner) // stretches : (i + 1) * len(inner) // stretches]
        if part:
            extremes = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
            kept += sorted(extremes)
    return [*kept, points[-1]]


def span(low: float, high: float) -> tuple[float, float]:
    """An interval wide enough to be divided."""
    size = max(abs(low), abs(high), 1.0)
    return (low, high) if high - low > 1e-9 * size else (low - 0.5 * size, low + 0.5 * size)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that enclose [low, high], about so many steps of them."""
    low, high = span(low, high)
    rough = (high - low) / about
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
    """Short for the eye: 16K, 4.2B, 0.034, −1.25."""
    sign, size = ("−" if value < 0 else ""), abs(value)
    rounded = float(f"{size:.3g}")
    for limit, divisor, unit in ((1e12, 1e12, "T"), (1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "K")):
        if rounded >= limit:
            return f"{sign}{rounded / divisor:.6g}{unit}"
    if size >= 100 or size == int(size):
        return f"{sign}{size:,.0f}"
    return f"{sign}{size:.3g}" if size >= 0.001 else f"{sign}{size:.0e}"


def _apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, at least `gap` apart, so that labels do not lie on each other."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = dict.fromkeys(order, 0.0)
    at = low - gap
    for i in order:
        at = placed[i] = max(wanted[i], at + gap)
    over = at - high
    for i in reversed(order):
        if over <= 0:
            break
        placed[i] -= over
        below = [placed[j] for j in order[: order.index(i)]]
        over = max(0.0, (below[-1] + gap) - placed[i]) if below else 0.0
    return [placed[i] for i in range(len(wanted))]


def _said(series: Sequence[Series], x_label: str) -> str:
    lines = ", ".join(f"{s.name} from {number(s.points[0][1])} to {number(s.points[-1][1])}" for s in series)
    return f"{lines} over {x_label}"
