"""A needle in a haystack: one sentence put into a long text at some depth, and asked for at its end (report §5.2.6).

The scorer is OpenCompass': 100 where the answer holds the keyword, else a fifth of how alike answer and needle are.
"""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from tokenmill.report.charts import element


def insert(haystack: Sequence[int], needle: Sequence[int], length: int, depth: float) -> list[int]:
    """The haystack's beginning with the needle in it, `length` tokens in all, or fewer where the haystack is shorter.

    Args:
        haystack, needle: token ids.
        length: tokens of the whole.
        depth: where, in percent of the haystack's tokens: the needle begins at token int(tokens · depth / 100).

    Raises:
        ValueError: the needle alone is longer, or the depth is no percentage.
    """
    if not 0 <= depth <= 100:
        raise ValueError(f"a depth of {depth}: give 0 to 100 percent")
    if len(needle) > length:
        raise ValueError(f"a needle of {len(needle)} tokens does not fit into {length}")
    around = list(haystack[: length - len(needle)])
    place = int(len(around) * depth / 100)
    return [*around[:place], *needle, *around[place:]]


def score(answer: str, needle: str, keyword: str | None = None) -> float:
    """100 if the answer has the keyword (by default the whole needle), else 0.2 · 100 · (1 − distance / longer length).

    White space does not count: a model writes Chinese with and without.
    """
    said, wanted = ("".join(text.split()) for text in (answer, needle))
    if "".join((keyword or needle).split()) in said:
        return 100.0
    longer = max(len(said), len(wanted))
    return 0.2 * 100 * (1 - levenshtein(said, wanted) / longer)


def levenshtein(one: str, other: str) -> int:
    """The fewest characters to put in, take out or change."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def heat_map(scores: Mapping[tuple[int, float], float]) -> Markup:
    """(length in tokens, depth in percent) → score, 0 to 100, as SVG: lengths to the right, depths downwards.

    What was not measured is left empty, not drawn as a zero.
    """
    lengths, depths = sorted({length for length, _ in scores}), sorted({depth for _, depth in scores})
    cell, left, top = 26, 64, 8
    width, height = left + cell * len(lengths) + 8, top + cell * len(depths) + 44
    parts = []
    for (length, depth), value in sorted(scores.items()):
        x, y = left + cell * lengths.index(length), top + cell * depths.index(depth)
        tip = element("title", f"{length} tokens, depth {depth:g}%: {value:.0f}")
        fill = f"hsl({1.2 * value:.0f} 60% 45%)"  # red over yellow to green
        parts.append(element("rect", tip, x=x, y=y, width=cell - 2, height=cell - 2, fill=fill))
    for depth in depths:
        y = top + cell * depths.index(depth) + 17
        parts.append(element("text", f"{depth:g}%", class_="tick", x=left - 8, y=y, text_anchor="end"))
    for length in lengths:
        middle = left + cell * lengths.index(length) + cell / 2
        text = f"{length // 1000}k" if length >= 1000 else str(length)
        parts.append(element("text", text, class_="tick", x=middle, y=height - 26, text_anchor="middle"))
    parts.append(element("text", "tokens", class_="axis", x=(left + width) / 2, y=height - 6, text_anchor="middle"))
    mean = sum(scores.values()) / len(scores)
    said = f"needle in a haystack: mean score {mean:.1f} over {len(lengths)} lengths and {len(depths)} depths"
    return element("svg", *parts, class_="chart", viewBox=f"0 0 {width} {height}", role="img", aria_label=said)
