"""What changed in a text, line by line, for a person to read: invisible characters are spelt out."""

from difflib import SequenceMatcher
from itertools import zip_longest
from typing import NamedTuple

_SHOWN_CHANGES = 8
_CONTEXT = 40  # characters before a difference


class Change(NamedTuple):
    """A line that a stage changed; invisible characters are spelt out."""

    line: int
    before: str
    after: str


def text_changes(before: str, after: str, most: int = _SHOWN_CHANGES) -> tuple[list[Change], int]:
    """The first lines that differ, cut to where they do, and how many lines differ in all."""
    if before == after:
        return [], 0
    old, new = before.split("\n"), after.split("\n")
    shown: list[Change] = []
    n_changed = 0
    for kind, i, i_end, j, j_end in SequenceMatcher(None, old, new).get_opcodes():
        if kind == "equal":
            continue
        for offset, (was, now) in enumerate(zip_longest(old[i:i_end], new[j:j_end])):
            n_changed += 1
            if len(shown) < most:
                shown.append(Change(i + offset + 1, *_cut(was, now)))
    return shown, n_changed


def _cut(was: str | None, now: str | None) -> tuple[str, str]:
    """Two lines from shortly before they part; a line that is not there is empty."""
    a, b = was or "", now or ""
    parted = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, parted - _CONTEXT)
    cut = [
        ("… " if start else "") + visible(t[start : start + 120]) + (" …" if len(t) > start + 120 else "")
        for t in (a, b)
    ]
    return (cut[0] if was is not None else "(no line)"), (cut[1] if now is not None else "(no line)")


def visible(text: str) -> str:
    """Text whose invisible characters are spelt out: a zero-width space reads `\\u200b`, one at the end `·`."""
    ended = text.rstrip(" ")
    told = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in ended)
    return told + "·" * (len(text) - len(ended))
