"""The default scorer: logistic regression on hashed n-grams. Small, fast, deterministic, and nothing to download.

Features are the character 1- to 4-grams and the words and word pairs that a window has, each once, hashed into 2^k columns
(Weinberger et al. 2009) and scaled to length 1. It knows the wordings of its training labels and little else: a start
for annotation, which a fine-tuned BERT (the report's) then follows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import orjson
from safetensors.numpy import load_file, save_file

from tokenmill.curation.scorer import CARD, WEIGHTS, folder_digest, score_by_windows
from tokenmill.curation.words import fold
from tokenmill.errors import InputError
from tokenmill.manifest import canonical

N_GRAMS = 4
_CLASSES = 0x20000
_OTHER, _LETTER, _HAN = 0, 1, 2


@dataclass(frozen=True)
class LinearScorer:
    """Weights of hashed features, and a bias."""

    name: str
    languages: frozenset[str]
    weights: np.ndarray
    """(2^k,) float32."""
    bias: float
    digest: str = ""

    @classmethod
    def load(cls, folder: Path) -> "LinearScorer":
        card = orjson.loads((folder / CARD).read_bytes())
        weights = load_file(folder / WEIGHTS)["weights"]
        if weights.ndim != 1 or len(weights) & (len(weights) - 1):
            raise InputError(f"{folder / WEIGHTS}: {weights.shape} weights are no power of two; train the scorer again")
        return cls(card["score"], frozenset(card["languages"]), weights, card["bias"], folder_digest(folder))

    def save(self, folder: Path) -> None:
        """Write scorer.json and model.safetensors; equal scorers give equal bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        card = {"kind": "linear", "score": self.name, "languages": sorted(self.languages), "bias": self.bias}
        (folder / CARD).write_bytes(canonical(card))
        save_file({"weights": self.weights}, folder / WEIGHTS)

    def score(self, texts: Sequence[str]) -> np.ndarray:
        return score_together((self,), texts)[0]


def score_together(scorers: Sequence[LinearScorer], texts: Sequence[str]) -> list[np.ndarray]:
    """(n,) scores of each scorer. Hashing the n-grams is what scoring costs, and it is done once for all of them.

    The scorers' weights must be of equal length.
    """
    table = np.stack([scorer.weights for scorer in scorers], axis=1)  # a column's weights beside each other
    names, bias = [scorer.name for scorer in scorers], np.array([scorer.bias for scorer in scorers])
    return score_by_windows(names, texts, partial(_predict, table, bias))


def _predict(table: np.ndarray, bias: np.ndarray, pieces: Sequence[str]) -> np.ndarray:
    """(pieces, scorers) scores."""
    sums, add = np.zeros((len(pieces), table.shape[1])), _kernel(_add_rows)
    lengths = np.ones(len(pieces))
    for i, found in enumerate(features(pieces, len(table))):
        add(found, table, sums[i])
        lengths[i] = max(len(found), 1)
    return sigmoid(bias + sums / np.sqrt(lengths)[:, None])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1 + np.exp(-np.clip(x, -40, 40)))


def features(texts: Sequence[str], columns: int) -> Iterator[np.ndarray]:
    """The columns that each text has, each once: (m,) int32 a text. `columns` is a power of two."""
    seen, found = np.zeros(columns, np.int32), np.empty(0, np.int32)
    kernel, classes, mask = _kernel(_list_columns), _classes(), np.uint64(columns - 1)
    for number, text in enumerate(texts, 1):
        points = _points(text)
        if len(found) < len(points) * (N_GRAMS + 2):
            found = np.empty(len(points) * (N_GRAMS + 2), np.int32)
        yield found[: kernel(points, classes, mask, seen, number, found)].copy()


def _points(text: str) -> np.ndarray:
    """The code points that n-grams are made of: case and white space folded, a blank at either end."""
    return np.frombuffer(f" {fold(' '.join(text.split()))} ".encode("utf-32-le", "replace"), np.uint32)


@lru_cache(maxsize=1)
def _classes() -> np.ndarray:
    """Code point → other, part of a word, or Han."""
    table = np.array([_LETTER * chr(i).isalnum() for i in range(_CLASSES)], np.uint8)
    for low, high in ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)):
        table[low : high + 1] = _HAN
    return table


@lru_cache
def _kernel(function: Callable) -> Callable:
    """A pass over code points, compiled, and kept on disk where there is a folder to keep it in."""
    import numba  # takes a while

    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # an image without a writable one
        return numba.njit(function)


def _list_columns(points, classes, mask, seen, number, found):  # type: ignore[no-untyped-def]  # numba reads the types
    """Fill `found` with the columns of one text; returns how many. `seen[column] == number` marks those it has."""
    prime, n = np.uint64(1099511628211), 0
    word, previous = np.uint64(0), np.uint64(0)
    for i in range(len(points)):
        gram = np.uint64(14695981039346656037)
        for length in range(1, min(N_GRAMS, len(points) - i) + 1):
            gram = (gram ^ np.uint64(points[i + length - 1])) * prime
            mixed = (gram ^ (gram >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(length)
            column = np.int64((mixed ^ (mixed >> np.uint64(32))) & mask)
            found[n] = column
            n += seen[column] != number
            seen[column] = number
        if points[i] < _CLASSES and classes[points[i]] == _LETTER:
            word = (word ^ np.uint64(points[i])) * prime + np.uint64(1)
        elif word:
            for mixed in (word, word * np.uint64(31) + previous):
                mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
                column = np.int64((mixed ^ (mixed >> np.uint64(32))) & mask)
                found[n] = column
                n += seen[column] != number
                seen[column] = number
            previous, word = word, np.uint64(0)
    return n


def _add_rows(found, table, sums):  # type: ignore[no-untyped-def]
    """Add the rows of `table` that are found to `sums`."""
    for column in found:
        for scorer in range(len(sums)):
            sums[scorer] += table[column, scorer]
