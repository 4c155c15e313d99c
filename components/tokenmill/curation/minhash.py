"""MinHash signatures, compiled: text → units → n-grams → smallest hashes, in one pass over the UTF-8 bytes.

A unit is a word in English, a character in Chinese, a lexeme in code. Units become 64-bit hashes, n-grams a rolling
polynomial of them, and of every n-gram's hash x (32 bits of it, mixed) the functions a·x + b mod 2³², a odd, keep their
smallest: a permutation of the 32-bit numbers each, and eight at a time in one vector register. The smallest of
a set knows no repetitions, so n-grams need not be made distinct first.

This module imports numba; steps import it where they work, so that finding a step does not.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numba import njit, uint8, uint32, uint64

from tokenmill.curation.units import CHARACTERS, LEXEMES, TABLE_SIZE, WORDS, encoded, unit_table

EMPTY = 0xFFFFFFFF
"""What a signature holds throughout where a text has no n-gram."""
BATCH_BYTES = 8 << 20
_BLOCK = 2048


def signatures(texts: Sequence[str], ngram: int = 5, permutations: int = 128, kind: str = WORDS) -> np.ndarray:
    """MinHash signatures of texts.

    Args:
        texts: any Unicode; each is taken by itself.
        ngram: units an n-gram.
        permutations: hash functions.
        kind: `words`, `characters` or `lexemes`: what the n-grams are made of.

    Returns:
        uint32 [texts, permutations]; a text with no n-gram has `EMPTY` throughout. The share of equal positions of two
        rows estimates the Jaccard similarity of their sets of n-grams, with σ = √(J(1-J)/permutations).
    """
    return sketch([encoded(text, kind) for text in texts], [kind] * len(texts), ngram, permutations, seed=1)


def sketch(data: Sequence[bytes], kinds: Sequence[str], ngram: int, permutations: int, seed: int) -> np.ndarray:
    """`signatures` of texts that are encoded already, each of its own kind."""
    out = np.full((len(data), permutations), EMPTY, np.uint32)
    factors, offsets = hash_functions(permutations, seed)
    start = 0
    while start < len(data):
        stop, size = start, 0
        while stop < len(data) and (stop == start or size + len(data[stop]) <= BATCH_BYTES):
            size += len(data[stop])
            stop += 1
        bounds = np.zeros(stop - start + 1, np.int64)
        np.cumsum([len(one) for one in data[start:stop]], out=bounds[1:])
        modes = np.array([MODES[kind] for kind in kinds[start:stop]], np.uint8)
        joined = np.frombuffer(b"".join(data[start:stop]) or b"\0", np.uint8)
        _sign(joined, bounds, modes, *_tables(), ngram, factors, offsets, out[start:stop])
        start = stop
    return out


def ngram_set(data: bytes, kind: str, ngram: int) -> np.ndarray:
    """The hashes of a text's distinct n-grams, sorted: uint64 [n-grams]."""
    raw = np.frombuffer(data or b"\0", np.uint8)
    size = len(data)
    words, lexemes = _tables()
    found = np.empty(_count_ngrams(raw, size, MODES[kind], words, lexemes, ngram), np.uint64)
    _collect_ngrams(raw, size, MODES[kind], words, lexemes, ngram, found)
    return np.unique(found)


@cache
def hash_functions(permutations: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors (odd) and offsets, uint32 [permutations] each, by SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        steps = np.arange(1, 2 * permutations + 1, dtype=np.uint64)
        state = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + steps * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        drawn = ((state ^ (state >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)
    return drawn[:permutations] | np.uint32(1), drawn[permutations:].copy()


MODES = {WORDS: 0, CHARACTERS: 1, LEXEMES: 2}
_PRIME = uint64(0x100000001B3)  # FNV-1a's, a multiplication a character
_BASE = uint64(0x9E3779B97F4A7C15)  # of the polynomial over units
_FRESH = uint64(0xCBF29CE484222325)


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    return unit_table(WORDS), unit_table(LEXEMES)


# --- kernels ---------------------------------------------------------------------------------------------------------


@njit(cache=True)
def _mix(x):  # type: ignore[no-untyped-def]
    """MurmurHash3's finaliser: every bit of the input reaches every bit of the output."""
    x ^= x >> uint64(33)
    x *= uint64(0xFF51AFD7ED558CCD)
    x ^= x >> uint64(33)
    x *= uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> uint64(33))


@njit(cache=True)
def _decode(data, at):  # type: ignore[no-untyped-def]
    """The code point that starts at a byte of well-formed UTF-8, and the byte after it."""
    first = uint32(data[at])
    if first < 0x80:
        return first, at + 1
    if first < 0xE0:
        return (first & uint32(0x1F)) << uint32(6) | uint32(data[at + 1]) & uint32(0x3F), at + 2
    middle = uint32(data[at + 1]) & uint32(0x3F)
    if first < 0xF0:
        return (first & uint32(0x0F)) << uint32(12) | middle << uint32(6) | uint32(data[at + 2]) & uint32(0x3F), at + 3
    last = (uint32(data[at + 2]) & uint32(0x3F)) << uint32(6) | uint32(data[at + 3]) & uint32(0x3F)
    return (first & uint32(0x07)) << uint32(18) | middle << uint32(12) | last, at + 4


@njit(cache=True)
def _next_ngrams(data, end, mode, table, state, ring, out):  # type: ignore[no-untyped-def]
    """Fill `out` with the hashes of the next n-grams; their number, 0 at the end of the text.

    `state` holds between calls: byte position, hash of the word so far, whether one is open, units so far, slot of the
    ring, polynomial of the last n units. `ring` holds the last n units.
    """
    at, word, is_open, units = np.int64(state[0]), state[1], state[2], state[3]
    slot, polynomial, n = np.int64(state[4]), state[5], ring.shape[0]
    oldest = uint64(1)
    for _ in range(n - 1):
        oldest *= _BASE
    filled = 0
    while at <= end and filled + 2 <= out.shape[0]:
        symbol, code = uint32(0), uint32(0)
        if at < end:
            code, at = _decode(data, at)
            symbol = table[code] if code < TABLE_SIZE else uint32(mode == 2)
        else:
            at += 1  # past the end stands a separator, which closes the last word
        closes = uint64(0)  # a word that ends here
        single = uint64(0)  # a unit of one character that stands here
        if mode == 1:
            if symbol == 0:
                continue
            single = _mix(uint64(symbol))
        elif symbol > 1 or (mode == 0 and symbol > 0):
            word = ((word if is_open else _FRESH) ^ uint64(symbol)) * _PRIME
            is_open = uint64(1)
            continue
        else:
            if is_open:
                closes = _mix(word)
                is_open = uint64(0)
            if symbol == 1:
                single = _mix(uint64(code) + _BASE)
        for unit in (closes, single):
            if unit == 0:
                continue
            polynomial = (polynomial - ring[slot] * oldest) * _BASE + unit
            ring[slot] = unit
            slot = slot + 1 if slot + 1 < n else 0
            units += uint64(1)
            if units >= uint64(n):
                out[filled] = _mix(polynomial)
                filled += 1
    state[0], state[1], state[2], state[3], state[4], state[5] = at, word, is_open, units, slot, polynomial
    return filled


@njit(cache=True)
def _keep_smallest(ngrams, count, factors, offsets, smallest):  # type: ignore[no-untyped-def]
    """Four n-grams at a time: half the loads and stores, twice the speed."""
    k = 0
    while k + 4 <= count:
        w, x = uint32(ngrams[k] >> uint64(32)), uint32(ngrams[k + 1] >> uint64(32))
        y, z = uint32(ngrams[k + 2] >> uint64(32)), uint32(ngrams[k + 3] >> uint64(32))
        for i in range(smallest.shape[0]):
            a, b = factors[i], offsets[i]
            left = min(uint32(a * w + b), uint32(a * x + b))
            right = min(uint32(a * y + b), uint32(a * z + b))
            smallest[i] = min(smallest[i], min(left, right))
        k += 4
    while k < count:
        x = uint32(ngrams[k] >> uint64(32))
        for i in range(smallest.shape[0]):
            smallest[i] = min(smallest[i], uint32(factors[i] * x + offsets[i]))
        k += 1


@njit(cache=True)
def _sign(data, bounds, modes, words, lexemes, n, factors, offsets, out):  # type: ignore[no-untyped-def]
    block = np.empty(_BLOCK, np.uint64)
    ring, state = np.zeros(n, np.uint64), np.zeros(6, np.uint64)
    smallest = np.empty(out.shape[1], np.uint32)
    for document in range(out.shape[0]):
        state[:] = 0
        ring[:] = 0
        smallest[:] = EMPTY
        text = data[bounds[document] : bounds[document + 1]]
        table = lexemes if modes[document] == 2 else words
        while state[0] <= uint64(text.shape[0]):
            count = _next_ngrams(text, text.shape[0], modes[document], table, state, ring, block)
            _keep_smallest(block, count, factors, offsets, smallest)
        out[document] = smallest


@njit(cache=True)
def _count_ngrams(data, size, mode, words, lexemes, n):  # type: ignore[no-untyped-def]
    block = np.empty(_BLOCK, np.uint64)
    ring, state = np.zeros(n, np.uint64), np.zeros(6, np.uint64)
    total = 0
    while state[0] <= uint64(size):
        total += _next_ngrams(data, size, uint8(mode), lexemes if mode == 2 else words, state, ring, block)
    return total


@njit(cache=True)
def _collect_ngrams(data, size, mode, words, lexemes, n, out):  # type: ignore[no-untyped-def]
    block = np.empty(_BLOCK, np.uint64)
    ring, state = np.zeros(n, np.uint64), np.zeros(6, np.uint64)
    total = 0
    while state[0] <= uint64(size):
        count = _next_ngrams(data, size, uint8(mode), lexemes if mode == 2 else words, state, ring, block)
        out[total : total + count] = block[:count]
        total += count


@njit(cache=True)
def jaccard(a, b):  # type: ignore[no-untyped-def]
    """|A ∩ B| / |A ∪ B| of two sorted arrays without repetitions; 0 of two empty ones."""
    i = j = common = 0
    while i < a.shape[0] and j < b.shape[0]:
        if a[i] == b[j]:
            common += 1
            i += 1
            j += 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    union = a.shape[0] + b.shape[0] - common
    return common / union if union else 0.0
