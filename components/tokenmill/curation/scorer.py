"""What every scorer is: a name, a direction, a digest, and texts in → scores out.

A scorer reads a document in windows, because it learned from texts of that length, and because one toxic paragraph makes a
page toxic, as one advertisement makes it an advertisement. So the *worst* window decides, but of fluency and code quality the
mean does: a page is not bad for one caption.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from tokenmill.curation.thresholds import HIGHER_IS_WORSE
from tokenmill.manifest import canonical, sha256
from tokenmill.records import content_digest

CARD = "scorer.json"
WEIGHTS = "model.safetensors"
WINDOW = 600
"""Characters a window at most."""
MEAN_SCORES = frozenset({"fluency", "code_quality"})
"""Scores of which a document has its windows' mean; of the others its worst window's."""
_ENDS = ("\n", ". ", "! ", "? ", "。", "！", "？", "；")
_BLANKS = re.compile(r"[^\S\n]{2,}")
"""A table's columns are no text: a window of little else would be scored on little."""


class Scorer(Protocol):
    """Gives every text one score in [0, 1]."""

    @property
    def name(self) -> str:
        """The score that it gives: the key in a record's `scores`."""

    @property
    def digest(self) -> str:
        """What it is: equal digests give equal scores on one platform."""

    @property
    def languages(self) -> frozenset[str]:
        """Languages it was trained on; empty = any."""

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """(n,) scores of n texts."""


def orientation(score: str) -> Literal["better", "worse"]:
    """What a higher value of this score says of a document."""
    return "worse" if score in HIGHER_IS_WORSE else "better"


def folder_digest(folder: Path) -> str:
    """What the files of a scorer are, whatever their order and compression."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return sha256(canonical([[p.relative_to(folder).as_posix(), content_digest(p)] for p in files]))


def windows(text: str, size: int = WINDOW) -> list[str]:
    """Pieces of at most `size` characters that make up the text, cut at the last line or sentence end, or else blank.

    None but an only one is shorter than a quarter of `size`: the few words that a page ends with would be scored on little.
    """
    pieces, start = [], 0
    while len(text) - start > size:
        low, high = start + size // 4, min(start + size, len(text) - size // 2)
        end = max(text.rfind(sign, low, high) + len(sign) for sign in _ENDS)
        if end <= low:
            end = text.rfind(" ", low, high) + 1
        if end <= low:
            end = high
        pieces.append(text[start:end])
        start = end
    return [piece for piece in (*pieces, text[start:]) if piece.strip()] or [""]


def score_by_windows(
    names: Sequence[str], texts: Sequence[str], predict: Callable[[list[str]], np.ndarray], size: int = WINDOW
) -> list[np.ndarray]:
    """A text's score of each name, of its windows' scores: the mean, or the worst, as the name asks.

    Args:
        predict: windows → (windows, names) scores.
    """
    pieces = [windows(_BLANKS.sub(" ", text), size) for text in texts]
    flat = np.asarray(predict([piece for one in pieces for piece in one]), np.float64)
    starts = np.cumsum([0, *(len(one) for one in pieces)])
    scores = []
    for name, column in zip(names, flat.T, strict=True):
        if name in MEAN_SCORES:
            scores.append(np.add.reduceat(column, starts[:-1]) / np.diff(starts))
        else:
            pick = np.maximum if name in HIGHER_IS_WORSE else np.minimum
            scores.append(pick.reduceat(column, starts[:-1]))
    return scores
