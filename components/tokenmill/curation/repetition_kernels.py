"""Compiled passes over what repeats in a text: its lines and paragraphs, and the n-grams of its words.

Lines and paragraphs are compared by 64-bit hashes, as words are: in a document of a million different ones, two share a
hash with probability 3e-8, and no statistic here would show one such pair. N-grams are compared exactly, by the numbers
of their words.
"""

from typing import Any, NamedTuple

import numba
import numpy
from numba import types

from tokenmill.compiling import CODES, HASHES, NUMBERS, TABLE, Codes, Hashes, Numbers, Table, compiled


class Repetition(NamedTuple):
    """The rows that `repetition` returns, in this order; each by length n of n-grams."""

    distinct: list[int]
    """Different units, at n = 1; the other rows start at n = 2."""
    top: list[int]
    """Characters in the occurrences of the most frequent n-gram (of several the longest); 0 if none occurs twice."""
    times: list[int]
    """How often that one occurs."""
    duplicate: list[int]
    """Characters in n-grams that occurred before, none counted twice."""


class Repeated(NamedTuple):
    """What `repeated` returns, of the lines or paragraphs of a text."""

    parts: int
    again: int
    """Parts that repeat an earlier one."""
    characters: int
    again_characters: int


_DISTINCT, _TOP, _TIMES, _DUPLICATE = range(4)

_SEED = numpy.uint64(0xCBF29CE484222325)
_PRIME = numpy.uint64(0x9E3779B97F4A7C15)
_SHUFFLE = numpy.uint64(0xD6E8FEB86659FD93)
_HALF = numpy.uint64(32)
_BITS = numpy.uint64(64)
_ONE = numpy.uint64(1)


@numba.njit
def _finished(state: Any) -> Any:
    state ^= state >> _HALF
    state *= _SHUFFLE
    return state ^ (state >> _HALF)


@numba.njit
def _first_of_equals(keys: Any, first: Any) -> int:
    """first[j] = the first place that holds keys[j]; returns how many different keys there are."""
    bits = 4
    while (1 << bits) < 3 * len(keys):
        bits += 1
    shift, mask = _BITS - numpy.uint64(bits), (_ONE << numpy.uint64(bits)) - _ONE
    table = numpy.full(1 << bits, -1, numpy.int32)
    different = 0
    for j in range(len(keys)):
        key = keys[j]
        slot = ((key ^ (key >> _HALF)) * _SHUFFLE) >> shift
        while table[slot] >= 0 and keys[table[slot]] != key:
            slot = (slot + _ONE) & mask
        if table[slot] < 0:
            table[slot] = j
            different += 1
        first[j] = table[slot]
    return different


@numba.njit
def _hashed(codes: Any, at: int, end: int) -> Any:
    """Hash of codes[at:end], by two chains of two characters a step: one multiplication is long in coming."""
    one, other = _SEED, _PRIME ^ numpy.uint64(end - at)
    while at + 4 <= end:
        one = (one ^ ((numpy.uint64(codes[at]) << _HALF) | numpy.uint64(codes[at + 1]))) * _PRIME
        other = (other ^ ((numpy.uint64(codes[at + 2]) << _HALF) | numpy.uint64(codes[at + 3]))) * _SHUFFLE
        one ^= one >> _HALF
        other ^= other >> _HALF
        at += 4
    while at < end:
        one = (one ^ numpy.uint64(codes[at])) * _PRIME
        at += 1
    return _finished(_finished(one) * _PRIME + other)


@compiled(CODES, TABLE, types.int64)
def repeated(codes: Codes, bounds: Table, gap: int) -> tuple[int, int, int, int]:
    """How much of a text's lines repeats; lines with fewer than `gap` line feeds between them count as one part."""
    starts, ends, gaps = bounds[0], bounds[1], bounds[2]
    hashes, lengths = numpy.empty(len(starts), numpy.uint64), numpy.empty(len(starts), numpy.int64)
    parts = again = characters = again_characters = line = 0
    while line < len(starts):
        start = starts[line]
        line += 1
        while line < len(starts) and gaps[line] < gap:
            line += 1
        hashes[parts], lengths[parts] = _hashed(codes, start, ends[line - 1]), ends[line - 1] - start
        parts += 1
    first = numpy.empty(parts, numpy.int32)
    _first_of_equals(hashes[:parts], first)
    for part in range(parts):
        characters += lengths[part]
        if first[part] != part:
            again += 1
            again_characters += lengths[part]
    return parts, again, characters, again_characters


@numba.njit
def _repeats(places: Any, first: Any, seen: Any, before: Any, size: int) -> tuple[Any, Any, Any]:
    """(characters of the most frequent n-gram's occurrences, their number, characters in n-grams seen before)."""
    best: Any = 0
    best_length: Any = 0
    covered: Any = 0
    again: Any = 0
    for j in range(len(places)):
        place = places[j]
        start, end = before[place], before[place + size]
        often = seen[first[j]]
        if often > 1 and (often > best or (often == best and end - start > best_length)):
            best, best_length = often, end - start
        if first[j] != j:
            again += end - max(start, covered)
            covered = end
    return best * best_length, best, again


@compiled(HASHES, NUMBERS, types.int64)
def repetition(hashes: Hashes, lengths: Numbers, longest: int) -> Table:
    """Different units, and repetition of the 2- to `longest`-grams, of a sequence of units with these hashes and lengths.

    Returns rows by `Repetition`, a column a length of n-grams.

    An (n+1)-gram can repeat only where the n-grams at its place and at the next one do. So each length looks only at
    what the one before left over, and its n-grams are known by a pair of n-gram numbers: no hash of hashes.
    """
    n = len(hashes)
    found = numpy.zeros((4, longest + 1), numpy.int64)
    before = numpy.empty(n + 1, numpy.int64)  # characters before each unit
    before[0] = 0
    for i in range(n):
        before[i + 1] = before[i] + lengths[i]
    places = numpy.arange(n).astype(numpy.int32)
    keys = hashes.copy()
    first, seen = numpy.empty(n, numpy.int32), numpy.empty(n, numpy.int32)
    numbers = numpy.full(n + 1, -1, numpy.int32)  # of the n-gram at each place; -1 where it occurs once
    left = n
    found[_DISTINCT, 1] = _first_of_equals(keys, first)
    for size in range(1, longest + 1):
        if size > 1:
            _first_of_equals(keys[:left], first)
        seen[:left] = 0
        for j in range(left):
            seen[first[j]] += 1
        if size > 1:
            found[_TOP, size], found[_TIMES, size], found[_DUPLICATE, size] = _repeats(
                places[:left], first, seen, before, size
            )
        for j in range(left):
            numbers[places[j]] = first[j] if seen[first[j]] > 1 else -1
        kept: Any = 0
        for j in range(left):  # no branch: whether a word repeats is not to be foreseen
            place = places[j]
            number, following = numbers[place], numbers[place + 1]
            goes_on = number >= 0 and following >= 0
            keys[kept] = (numpy.uint64(number) << _HALF) | numpy.uint64(following)
            places[kept] = place
            kept += goes_on
            numbers[place] = number if goes_on else -1  # else nor does anything longer repeat here
        left = kept
        if left == 0:
            break
    return found
