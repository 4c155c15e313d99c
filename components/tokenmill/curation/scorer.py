"""What every scorer is: a name, a direction, a digest, and texts in → scores out.

A scorer reads a document in windows, because it learned from texts of that length, and because one toxic paragraph makes a
page toxic, as one advertisement makes it an advertisement. So the *worst* window decides, but of fluency and code quality the
mean does: a page is not bad for one caption.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import orjson

from tokenmill.curation.thresholds import HIGHER_IS_WORSE
from tokenmill.errors import InputError
from tokenmill.manifest import canonical, sha256
from tokenmill.records import content_digest

CARD = "scorer.json"
WEIGHTS = "model.safetensors"
WINDOW = 600
"""Characters a window at most."""
MEAN_SCORES = frozenset({"fluency", "code_quality"})
"""Scores of which a document has its windows' mean; of the others its worst window's."""
_BREAK = re.compile(r"\n|[.!?](?=\s)|[。！？；]|\s")


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


def load_scorer(folder: Path, device: str = "cpu", batch: int = 32) -> Scorer:
    """The scorer that a folder holds.

    Raises:
        InputError: the folder holds none, or one of a kind that this version does not know.
    """
    if not (folder / CARD).is_file():
        raise InputError(f"{folder} holds no scorer: {CARD} is missing; make one with curation.train_scorer")
    kind = orjson.loads((folder / CARD).read_bytes()).get("kind")
    if kind == "linear":
        from tokenmill.curation.linear_scorer import LinearScorer

        return LinearScorer.load(folder)
    if kind == "bert":
        from tokenmill.curation.bert_scorer import BertScorer

        return BertScorer.load(folder, device, batch)
    raise InputError(f"{folder / CARD}: unknown kind of scorer {kind!r}; there are linear and bert")


def folder_digest(folder: Path) -> str:
    """What the files of a scorer are, whatever their order and compression."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return sha256(canonical([[p.relative_to(folder).as_posix(), content_digest(p)] for p in files]))


def windows(text: str, size: int = WINDOW) -> list[str]:
    """Pieces of at most `size` characters that make up the text, cut at the last line or sentence end, or else space."""
    pieces, start = [], 0
    while len(text) - start > size:
        breaks = list(_BREAK.finditer(text, start + size // 2, start + size))
        strong = [b for b in breaks if b[0] != " "] or breaks
        end = strong[-1].end() if strong else start + size
        pieces.append(text[start:end])
        start = end
    return [piece for piece in (*pieces, text[start:]) if piece.strip()] or [""]


def score_by_windows(
    name: str, texts: Sequence[str], predict: Callable[[list[str]], Iterable[float]], size: int = WINDOW
) -> np.ndarray:
    """One score a text, of its windows' scores: the mean, or the worst, as the score's name asks."""
    pieces = [windows(text, size) for text in texts]
    flat = np.asarray(list(predict([piece for one in pieces for piece in one])), dtype=np.float64)
    starts = np.cumsum([0, *(len(one) for one in pieces)])
    if name in MEAN_SCORES:
        pick: Callable[[np.ndarray], float] = np.mean
    else:
        pick = np.max if name in HIGHER_IS_WORSE else np.min
    return np.array([pick(flat[a:b]) for a, b in pairwise(starts.tolist())])
