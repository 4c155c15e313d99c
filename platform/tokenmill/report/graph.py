"""The lineage as a picture: a column a phase, a box an artifact, time from left to right and from top to bottom."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tokenmill.report.charts import element, number

PHASES = ("curation", "pretraining", "enhancement", "sft", "rlhf", "evaluation", "deployment")
HIDDEN = {
    "training_log",
    "training_state",
    "report",
    "training_sets",
}  # side products that would only crowd the picture
_JUDGES = {"reward_model", "control", "reference"}  # roles by which weights judge another model, not become it
Boxes = Mapping[str, Mapping[str, Any]]  # by digest
Links = Sequence[Mapping[str, str]]
_BOX_W, _BOX_H, _GAP_X, _GAP_Y, _TOP = 128, 52, 28, 16, 34
_LEFT = 30  # room for lines that go around boxes of the first column
_LINE = 15  # characters of a name that fit into a box


def lineage_chart(nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, str]]) -> Markup:
    """Draw nodes {digest, kind, step, counts} and edges {parent, child, role}."""
    boxes = {node["digest"]: node for node in nodes if node["kind"] not in HIDDEN}
    if not boxes:
        return Markup("")
    links = [e for e in edges if e["parent"] in boxes and e["child"] in boxes]
    place = _layout(boxes, links)
    own_way = model_way(boxes, links)
    drawn = essential(boxes, links, own_way)
    columns = sorted({column for column, _ in place.values()})
    height = _TOP + max(row for _, row in place.values()) * (_BOX_H + _GAP_Y) + _BOX_H + 10
    width = len(columns) * (_BOX_W + _GAP_X) - _GAP_X + _LEFT + 6
    at = {
        d: (_LEFT + columns.index(c) * (_BOX_W + _GAP_X), _TOP + row * (_BOX_H + _GAP_Y))
        for d, (c, row) in place.items()
    }
    parts = []
    for i, column in enumerate(columns):
        x = _LEFT + i * (_BOX_W + _GAP_X) + _BOX_W / 2
        title = PHASES[column] if column < len(PHASES) else "other"
        parts.append(element("text", title, class_="phase", x=x, y=16, text_anchor="middle"))
    for e in sorted(drawn, key=lambda e: (e["parent"], e["child"]) in own_way):  # the model's own way lies on top
        parts.append(_edge(at[e["parent"]], at[e["child"]], e["role"], (e["parent"], e["child"]) in own_way))
    parts += [_box(at[digest], node) for digest, node in boxes.items()]
    view = f"0 0 {width} {height:.0f}"
    said = f"Lineage of {len(boxes)} artifacts"
    return element("svg", *parts, class_="lineage", viewBox=view, width=width, role="img", aria_label=said)


def _layout(boxes: Boxes, links: Links) -> dict[str, tuple[int, float]]:
    """Digest → (column by phase, row). Within a phase what comes of something lies below it."""
    column = {d: _phase(node["step"]) for d, node in boxes.items()}
    depth = dict.fromkeys(boxes, 0)
    for _ in boxes:  # longest way within the phase; ends early when nothing moves
        moved = False
        for e in links:
            parent, child = e["parent"], e["child"]
            if column[parent] == column[child] and depth[child] < depth[parent] + 1 <= len(boxes):
                depth[child] = depth[parent] + 1
                moved = True
        if not moved:
            break
    rows: dict[str, float] = {}
    for c in sorted(set(column.values())):
        taken: set[int] = set()
        for digest in sorted((d for d in boxes if column[d] == c), key=lambda d: (depth[d], boxes[d]["step"], d)):
            row = depth[digest]
            while row in taken:
                row += 1
            taken.add(row)
            rows[digest] = float(row)
            for e in links:  # keep below what was pushed down
                if e["parent"] == digest and column[e["child"]] == c:
                    depth[e["child"]] = max(depth[e["child"]], row + 1)
    return {digest: (column[digest], rows[digest]) for digest in boxes}


def _phase(step: str) -> int:
    phase = step.split(".")[0]
    return PHASES.index(phase) if phase in PHASES else len(PHASES)


def model_way(boxes: Boxes, links: Links) -> set[tuple[str, str]]:
    """(parent, child) of the links by which the released model, or else the last trained one, came to be."""
    models = [e for e in links if boxes[e["parent"]]["kind"] == "weights" and e["role"] not in _JUDGES]
    models = [e for e in models if boxes[e["child"]]["kind"] in {"weights", "release"}]
    ends = [d for d, node in boxes.items() if node["kind"] == "release"]
    if not ends:
        trained = [d for d, node in boxes.items() if node["kind"] == "weights"]
        ends = [d for d in trained if not any(e["parent"] == d for e in models)]
    way: set[tuple[str, str]] = set()
    while ends:
        child = ends.pop()
        fresh = [(e["parent"], child) for e in models if e["child"] == child and (e["parent"], child) not in way]
        way.update(fresh)
        ends += [parent for parent, _ in fresh]
    return way


def essential(boxes: Boxes, links: Links, own_way: set[tuple[str, str]]) -> list[Mapping[str, str]]:
    """Without what only crowds the picture: the tokenizer's links to later phases, and links that a longer way repeats."""
    once = {(e["parent"], e["child"]): e for e in links}
    for parent, child in list(once):
        crosses = _phase(boxes[parent]["step"]) != _phase(boxes[child]["step"])
        if boxes[parent]["kind"] == "tokenizer" and crosses:
            del once[parent, child]
    below: dict[str, set[str]] = {}

    def reach(digest: str) -> set[str]:
        if digest not in below:
            below[digest] = set()  # a cycle cannot be, and must not hang the page
            children = [c for p, c in once if p == digest]
            below[digest] = set(children).union(*map(reach, children))
        return below[digest]

    kept = []
    for (parent, child), e in once.items():
        detour = any(p == parent and c != child and child in reach(c) for p, c in once)
        if not detour or (parent, child) in own_way:
            kept.append(e)
    return kept


def _edge(parent: tuple[float, float], child: tuple[float, float], role: str, is_model: bool) -> Markup:
    (x1, y1), (x2, y2) = parent, child
    if x1 == x2:
        direct = y2 - y1 <= _BOX_H + _GAP_Y
        if direct:
            x = x1 + _BOX_W / 2
            path = f"M{x:.0f},{y1 + _BOX_H:.0f} L{x:.0f},{y2:.0f}"
        else:  # around the boxes between, on the left
            a, b = y1 + _BOX_H / 2, y2 + _BOX_H / 2
            path = f"M{x1:.0f},{a:.0f} C{x1 - 26:.0f},{a:.0f} {x1 - 26:.0f},{b:.0f} {x1:.0f},{b:.0f}"
    elif x2 > x1:
        a, b = y1 + _BOX_H / 2, y2 + _BOX_H / 2
        bend = (x2 - x1 - _BOX_W) / 2
        path = f"M{x1 + _BOX_W:.0f},{a:.0f} C{x1 + _BOX_W + bend:.0f},{a:.0f} {x2 - bend:.0f},{b:.0f} {x2:.0f},{b:.0f}"
    else:  # back to an earlier phase: a checkpoint that selects documents
        a, b = y1 + _BOX_H / 2, y2 + _BOX_H / 2
        path = f"M{x1:.0f},{a:.0f} C{x1 - 30:.0f},{a:.0f} {x2 + _BOX_W + 30:.0f},{b:.0f} {x2 + _BOX_W:.0f},{b:.0f}"
    return element("path", element("title", role), class_="edge model" if is_model else "edge", d=path)


def _box(at: tuple[float, float], node: Mapping[str, Any]) -> Markup:
    x, y = at
    task = str(node.get("task") or node["step"])
    name = (task.partition(".")[2] or task).replace("_", " ").replace(".", " ")
    lines = textwrap.wrap(name, _LINE, max_lines=2, placeholder="…")
    kind, count = str(node["kind"]).replace("_", " "), _count(node)
    first = y + (18 if len(lines) > 1 else 23)
    parts = [
        element("title", f"{node['step']} {node['kind']} {node['digest'][:12]}"),
        element("rect", x=x, y=y, width=_BOX_W, height=_BOX_H, rx=7),
        *(element("text", line, class_="name", x=x + 10, y=first + 13 * i) for i, line in enumerate(lines)),
        element("text", f"{kind} · {count}" if count else kind, class_="kind", x=x + 10, y=first + 13 * len(lines) + 2),
    ]
    return element("g", *parts, class_=f"node {node['kind']}")


def _count(node: Mapping[str, Any]) -> str:
    counts = node.get("counts") or {}
    return next(
        (number(counts[name]) for name in ("tokens_seen", "tokens", "records", "files") if counts.get(name)), ""
    )
