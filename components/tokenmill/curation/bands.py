"""Locality-sensitive hashing: which pairs are compared at all, and what their signatures say.

The bytes of a signature are cut into bands (16 of 8), and two documents that agree in a whole band meet in a bucket. One
cut lets too many pairs pass that are just similar enough (at J = 0.8 one in 19), so the same bytes are shuffled and cut
again, `rounds` times in all. A band of millions of documents is first spread over files by its keys, so that memory
hangs on `SORTED_AT_ONCE`, not on the corpus.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit, uint64

from tokenmill.curation.disjoint_sets import better, join, root
from tokenmill.curation.fingerprints import Table
from tokenmill.curation.minhash import hash_functions
from tokenmill.errors import InputError

PAIR = np.dtype([("a", "<u8"), ("b", "<u8"), ("agree", "<u2")])
"""Two documents' numbers in the index and in how many bytes their signatures agree; `EQUAL` for equal texts, a staying."""
EQUAL = 0xFFFF
BUCKET_CAP = 50
"""Above this size a bucket's members are compared with its best one only, not pairwise."""
SORTED_AT_ONCE = 4_000_000
"""Keys a sort: 24 bytes each, with their documents and order."""
_BLOCK = 1 << 20
_BASE = uint64(0x9E3779B97F4A7C15)
Keyed = tuple[np.ndarray, np.ndarray]
"""uint64 keys, and the numbers (int64) of the documents they are of."""


@dataclass(frozen=True)
class Bounds:
    """Agreements, in bytes: below `low` a pair is dismissed, from `high` on it is one document; between, texts decide."""

    low: int
    middle: int
    high: int

    @classmethod
    def around(cls, threshold: float, margin: float, permutations: int) -> "Bounds":
        """Bounds for the similarities threshold - margin, threshold, and threshold + margin."""

        def matches(jaccard: float) -> int:
            share = 1 / 256 + min(max(jaccard, 0.0), 1.0) * 255 / 256
            return int(np.ceil(permutations * share - 1e-9))

        return cls(matches(threshold - margin), matches(threshold), matches(threshold + margin))


def similarity(agree: int, permutations: int) -> float:
    """The Jaccard similarity that an agreement estimates: of two bytes that differ, one in 256 agrees by chance."""
    return max(0.0, (agree / permutations - 1 / 256) * 256 / 255)


def band_rows(permutations: int, bands: int, rounds: int) -> np.ndarray:
    """The bytes of each band, int64 [rounds · bands, permutations // bands]: first in order, then shuffled each round."""
    cuts = [np.arange(permutations)]
    for turn in range(1, rounds):
        cuts.append(np.argsort(hash_functions(permutations, 1_000_003 * turn)[1], kind="stable"))
    return np.concatenate(cuts).reshape(rounds * bands, permutations // bands)


def find_pairs(index: Table, bands: np.ndarray, bounds: Bounds, with_equal: bool = True) -> Iterator[np.ndarray]:
    """Pairs that are, or may be, one document; those that may be come once for each band they share.

    Left out are pairs that these bands' sure ones connect already, and pairs within the stored index: those were decided
    when it was made.

    Args:
        index: the documents.
        bands: rows of `band_rows`.
        bounds: what is dismissed and what is sure.
        with_equal: give the pairs of equal texts too. They are found in any case: a copy is compared no further.

    Yields:
        `PAIR` [pairs], as many at a time as one sorting of keys gives.

    Raises:
        InputError: two new documents have one id.
    """
    _refuse_shared_ids(index)
    parent, compared = index.array("parent", 1, "<i8"), index.array("compared", 1, "u1")
    _begin(parent, compared, index.signatures)
    for sorted_keys in _by_key(index, lambda start, stop: _text_keys(index, start, stop)):
        equal = _equal_texts(*sorted_keys, index.exact, index.priority, index.order, index.old, parent, compared)
        if with_equal:
            yield equal
    for rows in bands:
        for keys, documents in _by_key(index, _BandKeys(index, rows, compared)):
            yield from _near_pairs(index, keys, documents, parent, bounds)


def _near_pairs(
    index: Table, keys: np.ndarray, documents: np.ndarray, parent: np.ndarray, bounds: Bounds
) -> Iterator[np.ndarray]:
    """Pairs of one band's buckets, as many at a time as the room for them holds."""
    room, at = np.empty(max(len(keys), BUCKET_CAP**2) + 1, PAIR), 0
    while at < len(keys):
        at, count = _compare_buckets(
            keys, documents, at, index.signatures, index.priority, index.order, index.old, parent,
            bounds.low, bounds.high, room["a"], room["b"], room["agree"],
        )  # fmt: skip
        yield room[:count].copy()


def _refuse_shared_ids(index: Table) -> None:
    def keys(start: int, stop: int) -> Keyed:
        numbers = np.arange(max(start, index.old), max(stop, index.old))
        return index.order[numbers], numbers

    for ids, documents in _by_key(index, keys):
        twice = np.flatnonzero(ids[1:] == ids[:-1])
        if len(twice):
            shared = min(index.id(int(documents[k])) for k in twice)
            raise InputError(f"two documents have the id {shared}: was a corpus merged with itself?")


# --- keys ------------------------------------------------------------------------------------------------------------


def _text_keys(index: Table, start: int, stop: int) -> Keyed:
    return _first_eight(index.exact[start:stop]) ^ index.salt[start:stop], np.arange(start, stop)


def _first_eight(digests: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(digests[:, :8]).view("<u8").ravel()


@dataclass(frozen=True)
class _BandKeys:
    """One band's keys of the documents that are compared by n-grams."""

    index: Table
    rows: np.ndarray
    compared: np.ndarray

    def __call__(self, start: int, stop: int) -> Keyed:
        numbers = start + np.flatnonzero(self.compared[start:stop])
        keys = np.empty(len(numbers), np.uint64)
        _hash_rows(self.index.signatures, numbers, self.rows, self.index.salt, keys)
        return keys, numbers


def _by_key(index: Table, keys_of: Callable[[int, int], Keyed]) -> Iterator[Keyed]:
    """All documents' keys, sorted, in as many parts as memory asks for; equal keys come in one part."""
    blocks = (keys_of(start, min(start + _BLOCK, index.size)) for start in range(0, index.size, _BLOCK))
    parts = -(-index.size // SORTED_AT_ONCE)
    if parts <= 1 or index.workdir is None:
        kept = list(blocks)
        if kept:
            yield _sorted(np.concatenate([k for k, _ in kept]), np.concatenate([n for _, n in kept]))
        return
    paths = [index.workdir / f"keys-{part:05d}" for part in range(parts)]
    for path in paths:
        path.unlink(missing_ok=True)
    for keys, numbers in blocks:
        part_of = _part(keys, parts)
        for part, path in enumerate(paths):
            chosen = part_of == part
            with path.open("ab") as file:
                file.write(np.stack([keys[chosen], numbers[chosen].astype(np.uint64)], axis=1).tobytes())
    for path in paths:
        rows = np.fromfile(path, np.uint64).reshape(-1, 2)
        path.unlink()
        yield _sorted(rows[:, 0], rows[:, 1].astype(np.int64))


def _part(keys: np.ndarray, parts: int) -> np.ndarray:
    """Which part a key belongs to. Keys are hashes, but ids need not be: their bits are mixed first."""
    with np.errstate(over="ignore"):
        return (((keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) * np.uint64(parts)) >> np.uint64(32)


def _sorted(keys: np.ndarray, numbers: np.ndarray) -> Keyed:
    """By key, equal keys in the order they came in. A stable sort of numpy's has no use of the processor's vectors."""
    order = np.argsort(keys)
    keys = keys[order]
    _in_turn(keys, order)
    return keys, numbers[order]


# --- kernels ---------------------------------------------------------------------------------------------------------


@njit(cache=True)
def _begin(parent, compared, signatures):  # type: ignore[no-untyped-def]
    """Every document by itself; one whose signature is 255 throughout has no n-grams to compare."""
    for i in range(parent.shape[0]):
        parent[i] = i
        compared[i] = 0
        for k in range(signatures.shape[1]):
            if signatures[i, k] != 255:
                compared[i] = 1
                break


@njit(cache=True)
def _hash_rows(signatures, numbers, rows, salt, out):  # type: ignore[no-untyped-def]
    for k in range(numbers.shape[0]):
        key = salt[numbers[k]]
        for row in rows:
            key = (key ^ uint64(signatures[numbers[k], row])) * _BASE
            key ^= key >> uint64(29)
        out[k] = key


@njit(cache=True)
def _agreement(signatures, i, j):  # type: ignore[no-untyped-def]
    agree = 0
    for k in range(signatures.shape[1]):
        agree += signatures[i, k] == signatures[j, k]
    return agree


@njit(cache=True)
def _run_end(keys, start):  # type: ignore[no-untyped-def]
    end = start + 1
    while end < keys.shape[0] and keys[end] == keys[start]:
        end += 1
    return end


@njit(cache=True)
def _in_turn(keys, order):  # type: ignore[no-untyped-def]
    """Sort each run of equal keys by where they came from."""
    at = 0
    while at < keys.shape[0]:
        end = _run_end(keys, at)
        if end > at + 1:
            order[at:end].sort()
        at = end


@njit(cache=True)
def _best(documents, start, end, priority, order):  # type: ignore[no-untyped-def]
    best = documents[start]
    for k in range(start + 1, end):
        if better(priority, order, documents[k], best):
            best = documents[k]
    return best


@njit(cache=True)
def _join_equal(keys, documents, exact, priority, order, old, parent, compared, a, b):  # type: ignore[no-untyped-def]
    at = count = 0
    while at < keys.shape[0]:
        end = _run_end(keys, at)
        best = _best(documents, at, end, priority, order)
        for k in range(at, end):
            other = documents[k]
            if other == best or (other < old and best < old) or (exact[other] != exact[best]).any():
                continue
            a[count], b[count] = best, other
            count += 1
            join(parent, best, other)
            compared[other] = 0
        at = end
    return count


def _equal_texts(
    keys: np.ndarray, documents: np.ndarray, exact: np.ndarray, priority: np.ndarray, order: np.ndarray, old: int,
    parent: np.ndarray, compared: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Pairs of equal texts, the better one first; the other is compared no further."""
    pairs = np.empty(len(keys), PAIR)
    count = _join_equal(keys, documents, exact, priority, order, old, parent, compared, pairs["a"], pairs["b"])
    pairs["agree"] = EQUAL
    return pairs[:count]


@njit(cache=True)
def _compare_buckets(  # type: ignore[no-untyped-def]
    keys, documents, at, signatures, priority, order, old, parent, low, high, a, b, agreed
):
    """Compare the documents of each bucket from `at` on; returns where the room for pairs ended, and their number."""
    count = 0
    while at < keys.shape[0]:
        end = _run_end(keys, at)
        size = end - at
        if count + (size * size if size <= BUCKET_CAP else size) > a.shape[0]:
            break
        best = np.int64(-1) if size <= BUCKET_CAP else _best(documents, at, end, priority, order)
        for i in range(at, end if best < 0 else at + 1):
            one = documents[i] if best < 0 else best
            for j in range(i + 1 if best < 0 else at, end):
                other = documents[j]
                if one == other or (one < old and other < old) or root(parent, one) == root(parent, other):
                    continue
                agree = _agreement(signatures, one, other)
                if agree < low:
                    continue
                if agree >= high:
                    join(parent, one, other)
                a[count], b[count], agreed[count] = min(one, other), max(one, other), agree
                count += 1
        at = end
    return at, count
