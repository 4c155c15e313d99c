"""Compiled passes over a text's units, which are 64-bit hashes: nothing is made in Python for a word.

This module imports numba; nothing imports it before a text is looked at.
"""

from typing import Any

import numba
import numpy
from numba import types

from tokenmill.compiling import CODES, HASHES, LOWER, NUMBERS, Codes, Hashes, Numbers, compiled

SIGN = numpy.uint32(1 << 31)
"""Marks a character that is a unit by itself, in a table of units."""
_PRIME = numpy.uint64(0x100000001B3)  # FNV-1a's, a multiplication a character
_FRESH = numpy.uint64(0xCBF29CE484222325)
_BASE = numpy.uint64(0x9E3779B97F4A7C15)  # of the polynomial over units
_ONE = numpy.uint64(1)
_LOW = numpy.uint64(63)
_SIX = numpy.uint64(6)

PLACES = types.Array(types.uint64, 1, "C", readonly=True)
KEYS = types.Array(types.uint64, 1, "C", readonly=True)
COUNTS = types.Array(types.int64, 1, "C", readonly=True)


@numba.njit
def _mix(x: Any) -> Any:
    """MurmurHash3's finaliser: every bit of the input reaches every bit of the output."""
    x ^= x >> numpy.uint64(33)
    x *= numpy.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> numpy.uint64(33)
    x *= numpy.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> numpy.uint64(33))


@compiled(CODES, LOWER, types.boolean)
def hashed_units(codes: Codes, table: Any, characters: bool) -> Any:
    """The units of a text, a hash each: words and signs, or every character of them.

    `table` says of a code point what it counts as: 0 nothing, else its lower case, marked `SIGN` where it stands alone.
    """
    out = numpy.empty(len(codes) + 1, numpy.uint64)
    made, word, is_open = 0, _FRESH, False
    for code in codes:
        symbol = table[code] if code < len(table) else numpy.uint32(0)
        letter = symbol != 0 and symbol < SIGN
        if letter and not characters:
            word = (word ^ numpy.uint64(symbol)) * _PRIME
            is_open = True
            continue
        if is_open:
            out[made] = _mix(word)
            made += 1
            word, is_open = _FRESH, False
        if symbol != 0:
            out[made] = _mix((_FRESH ^ numpy.uint64(symbol)) * _PRIME)
            made += 1
    if is_open:
        out[made] = _mix(word)
        made += 1
    return out[:made].copy()


@numba.njit
def _gram(units: Any, start: int, n: int) -> Any:
    total = numpy.uint64(0)
    for i in range(start, start + n):
        total = total * _BASE + units[i]
    return _mix(total)


@compiled(HASHES, types.int64)
def grams(units: Hashes, n: int) -> Any:
    """The hash of every run of `n` units: uint64 [max(0, units - n + 1)]."""
    made = max(0, len(units) - n + 1)
    out = numpy.empty(made, numpy.uint64)
    oldest = _ONE
    for _ in range(n - 1):
        oldest *= _BASE
    total = numpy.uint64(0)
    for i in range(len(units)):
        if i >= n:
            total -= units[i - n] * oldest
        total = total * _BASE + units[i]
        if i >= n - 1:
            out[i - n + 1] = _mix(total)
    return out


@numba.njit
def _bit(places: Any, shift: Any, key: Any) -> bool:
    place = key >> shift
    return (places[place >> _SIX] >> (place & _LOW)) & _ONE != 0


@numba.njit
def _first(keys: Any, key: Any) -> int:
    """The first index at which `key` could stand in sorted `keys`."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@compiled(KEYS, types.uint64, HASHES)
def mark(keys: Any, shift: Any, places: Any) -> None:
    """Set a bit for the highest 64 - `shift` bits of every key: most of what is none of them is told so by one look."""
    for key in keys:
        place = key >> shift
        places[place >> _SIX] |= _ONE << (place & _LOW)


@compiled(HASHES, types.int64, PLACES, types.uint64, KEYS, COUNTS, KEYS, COUNTS)
def runs(
    units: Hashes, anchor: int, places: Any, shift: Any, anchors: Any, lengths: Any, hashes: Any, owners: Any
) -> Any:
    """Where a run of units stands that somebody owns: int64 [hits, 3] of owner, place and length.

    The runs are sorted by `anchors`, the hash of their first `anchor` units; `hashes` are of the whole ones.
    """
    out = numpy.empty((8, 3), numpy.int64)
    found = 0
    starts = grams(units, anchor)
    for at in range(len(starts)):
        if not _bit(places, shift, starts[at]):
            continue
        entry, length, whole = _first(anchors, starts[at]), 0, numpy.uint64(0)
        while entry < len(anchors) and anchors[entry] == starts[at]:
            if lengths[entry] != length:
                length = lengths[entry]
                whole = _gram(units, at, length) if at + length <= len(units) else numpy.uint64(0)
            if hashes[entry] == whole and at + length <= len(units):
                if found == len(out):
                    grown = numpy.empty((2 * found, 3), numpy.int64)
                    grown[:found] = out
                    out = grown
                out[found, 0], out[found, 1], out[found, 2] = owners[entry], at, length
                found += 1
            entry += 1
    return out[:found].copy()


@compiled(HASHES, PLACES, types.uint64, KEYS, COUNTS, COUNTS, COUNTS, types.int64, NUMBERS, NUMBERS)
def gatherings(
    found: Hashes,
    places: Any,
    shift: Any,
    keys: Any,
    owners: Any,
    windows: Any,
    wanted: Any,
    start: int,
    count: Numbers,
    last: Numbers,
) -> Any:
    """Where enough of an owner's n-grams stand close together: int64 [places, 2] of owner and place of the last one.

    Enough are `wanted` of an owner, close are `windows`: no two neighbours further apart. Repetitions count, so this finds
    more than there is: whoever asks looks again.

    Args:
        found: a text's n-grams in order.
        keys: n-grams, sorted, and `owners` of them in the same order.
        start: number of the first n-gram; between two texts it grows by more than the widest window.
        count: scratch, a number an owner, and `last` likewise: neither is cleared between texts.
    """
    out = numpy.empty((8, 2), numpy.int64)
    made = 0
    for at in range(len(found)):
        if not _bit(places, shift, found[at]):
            continue
        entry = _first(keys, found[at])
        while entry < len(keys) and keys[entry] == found[at]:
            owner = owners[entry]
            count[owner] = count[owner] + 1 if start + at - last[owner] < windows[owner] else 1
            last[owner] = start + at
            if count[owner] >= wanted[owner]:
                count[owner] = 0
                if made == len(out):
                    grown = numpy.empty((2 * made, 2), numpy.int64)
                    grown[:made] = out
                    out = grown
                out[made, 0], out[made, 1] = owner, at
                made += 1
            entry += 1
    return out[:made].copy()


_PROBES = (
    numpy.uint64(0x9E3779B97F4A7C15),
    numpy.uint64(0xC2B2AE3D27D4EB4F),
    numpy.uint64(0xD6E8FEB86659FD93),
)
"""Odd factors; a key has a bit at the highest bits of its product with each (Bloom 1970, three of at least eight bits)."""


@compiled(HASHES, HASHES, types.int64)
def bloom(keys: Hashes, words: Hashes, bits: int) -> None:
    """Set the bits of every key in a filter of 2^`bits` bits."""
    shift = numpy.uint64(64 - bits)
    for key in keys:
        for factor in _PROBES:
            place = (key * factor) >> shift
            words[place >> _SIX] |= _ONE << (place & _LOW)


@numba.njit
def _blooms(key: Any, words: Any, shift: Any) -> bool:
    for factor in _PROBES:
        place = (key * factor) >> shift
        if (words[place >> _SIX] >> (place & _LOW)) & _ONE == 0:
            return False
    return True


@compiled(KEYS, types.int64, KEYS, COUNTS, COUNTS, KEYS, COUNTS, COUNTS)
def may_hold(
    words: Any, bits: int, runs_: Any, run_bounds: Any, run_wanted: Any, own: Any, own_bounds: Any, own_wanted: Any
) -> bool:
    """Whether the text behind a filter may hold a question: `run_wanted` of its n-grams in a row, or `own_wanted` of its own.

    Question i has `runs_[run_bounds[i]:run_bounds[i + 1]]`, in order, and likewise `own`; what is wanted of it is 0 where
    that is not looked for. True is maybe, False is certain.
    """
    shift = numpy.uint64(64 - bits)
    for question in range(len(run_wanted)):
        at, end, run = run_bounds[question], run_bounds[question + 1], run_wanted[question]
        while run and at + run <= end:
            back = at + run - 1
            while back >= at and _blooms(runs_[back], words, shift):
                back -= 1
            if back < at:
                return True
            at = back + 1
        left, lacking = own_wanted[question], own_bounds[question + 1] - own_bounds[question] - own_wanted[question]
        if left == 0:
            continue
        for place in range(own_bounds[question], own_bounds[question + 1]):
            if _blooms(own[place], words, shift):
                left -= 1
                if left == 0:
                    return True
            else:
                lacking -= 1
                if lacking < 0:
                    break
    return False
