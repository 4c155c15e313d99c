"""Compiled passes over a document's code points: counts, words, lines and repetition.

Each pass is compiled when this module is first imported on a machine (seconds), and read from numba's cache afterwards
(beside this file, else in the user's cache folder, else in `NUMBA_CACHE_DIR`). So nothing imports it before it is
needed, and a step with many workers imports it once before it starts them.

A text is an array of code points, uint32. Words, lines and paragraphs are compared by 64-bit hashes: in a document of a
million different words, two share a hash with probability 3e-8, and no statistic here would show one such pair. N-grams
are compared exactly, by the numbers of their words.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy
from numba import types
from numpy.typing import NDArray

Codes = NDArray[numpy.uint32]
Kinds = NDArray[numpy.uint16]
Hashes = NDArray[numpy.uint64]
Numbers = NDArray[numpy.int64]
F = TypeVar("F", bound=Callable[..., Any])


class Counts(NamedTuple):
    """Of a whole text; in characters where the name says no other unit."""

    white: int
    words: int
    """Runs of characters that are not white space."""
    tokens: int
    """Words in which something is left without the punctuation around them."""
    lettered_words: int
    """Words that hold a letter."""
    letters: int
    han: int
    punctuation: int
    control: int
    replacement: int
    """U+FFFD."""
    mojibake: int
    """Sequences, of two characters or three."""
    strange: int
    """Private use, non-characters, halves of surrogate pairs."""
    sentence_ends: int
    terminals: int
    """Terminal punctuation marks, wherever they stand."""
    hashes: int
    ellipses: int
    curly: int
    line_feeds: int
    blank_run: int
    """Line feeds in the longest run of white space."""
    separators: int
    """Characters in runs of at least four equal separators (====, ----)."""
    cased_twice: int
    """Characters whose lower case is no single character."""
    javascript: int
    """Occurrences of the word, in upper or lower case."""
    lorem_ipsum: int


class Lines(NamedTuple):
    """Of each line or paragraph that is not empty: where it is without the white space around it, and what it is like."""

    starts: Numbers
    ends: Numbers
    hashes: Hashes
    words: Numbers
    marks: Kinds
    """BULLET: starts with one. ELLIPSIS, TERMINAL: ends with one."""


class Repetition(NamedTuple):
    """By length n of n-grams, from 1 on (index 0 is unused)."""

    distinct: Numbers
    """Different n-grams; counted for n = 1 only, as longer ones are looked at only where they can repeat."""
    top: Numbers
    """Characters in the occurrences of the most frequent n-gram; 0 if none occurs twice."""
    duplicate: Numbers
    """Characters in n-grams that occurred before, none counted twice."""


def compiled(*signature: types.Type) -> Callable[[F], F]:
    """Compile ahead for one signature, from the cache where there is one and without it where none can be written."""

    def compile_(function: F) -> F:
        try:
            return numba.njit(signature, cache=True)(function)
        except RuntimeError as failure:  # no folder to keep a cache in: a read-only image without a home
            if "cannot cache" not in str(failure):
                raise
            return numba.njit(signature)(function)

    return compile_


_CODES = types.Array(types.uint32, 1, "C", readonly=True)
_KINDS = types.Array(types.uint16, 1, "C")
_LOWER = types.Array(types.uint32, 1, "C")
_HASHES = types.Array(types.uint64, 1, "C")
_NUMBERS = types.Array(types.int64, 1, "C")

# Kinds of characters, flags in the table `kinds`. They stand here and not beside the table, because numba compiles anew
# when this file changes, not when another does.
WHITE, LETTER, HAN, PUNCTUATION, CONTROL, EDGE, ENDS, CLOSES = (1 << bit for bit in range(8))
BULLET, SPACED_BULLET, ELLIPSIS, TERMINAL, SEPARATOR, STRANGE, CASED_TWICE = (1 << bit for bit in range(8, 15))

_LINE_FEED, _SPACE = ord("\n"), ord(" ")
_HASH, _CURLY, _DOT, _WIDE_DOT, _ELLIPSIS, _REPLACEMENT = map(ord, "#{.。…�")
_SMALL_J, _BIG_J, _SMALL_L, _BIG_L = map(ord, "jJlL")
_JAVASCRIPT = tuple(map(ord, "javascript"))
_LOREM_IPSUM = tuple(map(ord, "lorem ipsum"))
_A_TILDE, _A_CIRCUMFLEX, _SMALL_A_CIRCUMFLEX, _EURO = map(ord, "ÃÂâ€")
_AFTER_EURO = tuple(map(ord, "™œ\x9d“”˜"))
_SCARS = (tuple(map(ord, "锟斤拷")), tuple(map(ord, "ï¿½")))
_LONG_S, _DOTLESS_I, _SMALL_S, _SMALL_I = map(ord, "ſısi")

_SEED = numpy.uint64(0xCBF29CE484222325)
_PRIME = numpy.uint64(0x9E3779B97F4A7C15)
_SHUFFLE = numpy.uint64(0xD6E8FEB86659FD93)
_HALF = numpy.uint64(32)
_BITS = numpy.uint64(64)
_ONE = numpy.uint64(1)


@numba.njit
def _reads(codes: Any, at: int, word: Any, lower: Any) -> bool:
    """Whether `word` stands at `at`, in upper or lower case (ſ and ı count as s and i, as in Python's `re`)."""
    if at + len(word) > len(codes):
        return False
    for k in range(len(word)):
        code = lower[codes[at + k]]
        if code == _LONG_S:
            code = _SMALL_S
        elif code == _DOTLESS_I:
            code = _SMALL_I
        if code != word[k]:
            return False
    return True


@numba.njit
def _mojibake(codes: Any, at: int) -> int:
    """Length of the wrongly decoded sequence at `at`, or 0."""
    code, left = codes[at], len(codes) - at
    if (code == _A_TILDE or code == _A_CIRCUMFLEX) and left > 1:
        return 2 if 0x80 <= codes[at + 1] <= 0xBF else 0
    if left < 3:
        return 0
    second, third = codes[at + 1], codes[at + 2]
    if code == _SMALL_A_CIRCUMFLEX and second == _EURO:
        return 3 if 0x80 <= third <= 0xBF or third in _AFTER_EURO else 0
    for scar in _SCARS:
        if code == scar[0] and second == scar[1] and third == scar[2]:
            return 3
    return 0


@compiled(_CODES, _KINDS, _LOWER)
def count(codes: Codes, kinds: Kinds, lower: Any) -> Counts:
    """Everything that one look at each character tells."""
    white = words = tokens = lettered = letters = han = punctuation = control = replacement = strange = 0
    mojibake = ends = terminals = hashes = ellipses = curly = line_feeds = separators = twice = 0
    javascript = lorem = blank_run = feeds = run = wrong_until = 0
    in_word = has_letter = has_core = False
    n = len(codes)
    previous = numpy.uint32(_SPACE)
    for i in range(n):
        code = codes[i]
        kind = kinds[code]
        if kind & WHITE:
            white += 1
            if in_word:
                in_word, feeds = False, 0
                tokens += has_core
                lettered += has_letter
            if code == _LINE_FEED:
                line_feeds += 1
                feeds += 1
                blank_run = max(blank_run, feeds)
        else:
            if not in_word:
                words += 1
                in_word, has_letter, has_core = True, False, False
            has_core |= not kind & EDGE
        if kind & LETTER:
            letters += 1
            has_letter = True
            han += (kind & HAN) != 0
            twice += (kind & CASED_TWICE) != 0
            if code == _SMALL_J or code == _BIG_J:
                javascript += _reads(codes, i, _JAVASCRIPT, lower)
            elif code == _SMALL_L or code == _BIG_L:
                lorem += _reads(codes, i, _LOREM_IPSUM, lower)
        else:
            han += (kind & HAN) != 0
            punctuation += (kind & PUNCTUATION) != 0
            control += (kind & CONTROL) != 0
            strange += (kind & STRANGE) != 0
            terminals += (kind & TERMINAL) != 0
            replacement += code == _REPLACEMENT
            hashes += code == _HASH
            curly += code == _CURLY
            ellipses += code == _ELLIPSIS
            if kind & ENDS:
                ends += i + 1 == n or (kinds[codes[i + 1]] & CLOSES) != 0
        if kind & (SEPARATOR | ELLIPSIS):
            run = run + 1 if code == previous else 1
            if kind & SEPARATOR and run >= 4:
                separators += 4 if run == 4 else 1
            if (code == _DOT or code == _WIDE_DOT) and run % 3 == 0:
                ellipses += 1
        previous = code
        if code >= 0x80 and i >= wrong_until:
            length = _mojibake(codes, i)
            if length:
                mojibake += 1
                wrong_until = i + length
    if in_word:
        tokens += has_core
        lettered += has_letter
    return Counts(
        *(white, words, tokens, lettered, letters, han, punctuation, control, replacement, mojibake, strange, ends),
        *(terminals, hashes, ellipses, curly, line_feeds, blank_run, separators, twice, javascript, lorem),
    )


@numba.njit
def _finished(state: Any) -> Any:
    state ^= state >> _HALF
    state *= _SHUFFLE
    return state ^ (state >> _HALF)


@compiled(_CODES, _KINDS, _LOWER, types.int64)
def tokens(codes: Codes, kinds: Kinds, lower: Any, n: int) -> tuple[Hashes, Numbers]:
    """Hash and length of each of the `n` lower-cased words without the punctuation around them."""
    hashes = numpy.empty(n, numpy.uint64)
    lengths = numpy.empty(n, numpy.int64)
    made = i = 0
    while i < len(codes):
        if kinds[codes[i]] & (WHITE | EDGE):
            i += 1
            continue
        state = settled = _SEED
        length = settled_length = 0
        while i < len(codes) and not kinds[codes[i]] & WHITE:
            state = (state ^ lower[codes[i]]) * _PRIME
            length += 1
            if not kinds[codes[i]] & EDGE:  # what follows the last such character is not the word's
                settled, settled_length = state, length
            i += 1
        hashes[made], lengths[made] = _finished(settled), settled_length
        made += 1
    return hashes, lengths


@numba.njit
def _marks(codes: Any, kinds: Any, start: int, end: int) -> int:
    first, last = kinds[codes[start]], kinds[codes[end - 1]]
    found = first & BULLET
    if first & SPACED_BULLET and start + 1 < end and codes[start + 1] == _SPACE:
        found |= BULLET
    if last & ELLIPSIS:
        code = codes[end - 1]
        three = end - start >= 3 and codes[end - 2] == code and codes[end - 3] == code
        if code == _ELLIPSIS or three:
            found |= ELLIPSIS
    return found | (last & TERMINAL)


@compiled(_CODES, _KINDS, types.int64)
def lines(codes: Codes, kinds: Kinds, line_feeds: int) -> Lines:
    """The parts between runs of white space with at least `line_feeds` line feeds: 1 gives lines, 2 paragraphs."""
    most = 1
    for code in codes:
        most += code == _LINE_FEED
    starts, ends = numpy.empty(most, numpy.int64), numpy.empty(most, numpy.int64)
    hashes, words = numpy.empty(most, numpy.uint64), numpy.empty(most, numpy.int64)
    marks = numpy.empty(most, numpy.uint16)
    made = i = 0
    n = len(codes)
    while i < n:
        while i < n and kinds[codes[i]] & WHITE:
            i += 1
        if i == n:
            break
        start = end = i
        state = _SEED
        in_line = 0
        while True:
            in_line += 1
            for k in range(end, i):
                state = (state ^ codes[k]) * _PRIME
            while i < n and not kinds[codes[i]] & WHITE:
                state = (state ^ codes[i]) * _PRIME
                i += 1
            end = i
            feeds = 0
            while i < n and kinds[codes[i]] & WHITE:
                feeds += codes[i] == _LINE_FEED
                i += 1
            if i == n or feeds >= line_feeds:
                break
        starts[made], ends[made], hashes[made], words[made] = start, end, _finished(state), in_line
        marks[made] = _marks(codes, kinds, start, end)
        made += 1
    return Lines(starts[:made], ends[:made], hashes[:made], words[:made], marks[:made])


@numba.njit
def _first_of_equals(keys: Any, first: Any) -> int:
    """first[j] = the first place that holds keys[j]; returns how many different keys there are."""
    bits = 4
    while (1 << bits) < 2 * len(keys):
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


@compiled(_HASHES, _NUMBERS, types.int64)
def repetition(hashes: Hashes, lengths: Numbers, longest: int) -> Repetition:
    """Repetition of the 1- to `longest`-grams of a sequence of units with these hashes and lengths.

    An (n+1)-gram can repeat only where the n-grams at its place and at the next one do. So each length looks only at
    what the one before left over, and its n-grams are known by a pair of n-gram numbers: no hash of hashes.
    """
    n = len(hashes)
    distinct, top = numpy.zeros(longest + 1, numpy.int64), numpy.zeros(longest + 1, numpy.int64)
    duplicate = numpy.zeros(longest + 1, numpy.int64)
    before = numpy.zeros(n + 1, numpy.int64)  # characters before each unit
    for i in range(n):
        before[i + 1] = before[i] + lengths[i]
    places = numpy.arange(n)
    keys = hashes.copy()
    first = numpy.empty(n, numpy.int64)
    times = numpy.empty(n, numpy.int64)
    numbers = numpy.full(n + 1, -1)  # of the n-gram at each place; -1 where it occurs once
    left = n
    for size in range(1, longest + 1):
        different = _first_of_equals(keys[:left], first)
        if size == 1:
            distinct[size] = different
        times[:left] = 0
        best = best_length = covered = 0
        for j in range(left):
            times[first[j]] += 1
            if first[j] == j:
                continue
            place, seen = places[j], times[first[j]]
            length = before[place + size] - before[place]
            if seen > best or (seen == best and length > best_length):
                best, best_length = seen, length
            duplicate[size] += before[place + size] - before[max(place, covered)]
            covered = place + size
        top[size] = best * best_length
        numbers[:] = -1
        for j in range(left):
            if times[first[j]] > 1:
                numbers[places[j]] = first[j]
        kept = 0
        for j in range(left):
            place = places[j]
            if numbers[place] >= 0 and numbers[place + 1] >= 0:
                keys[kept] = (numpy.uint64(numbers[place]) << _HALF) | numpy.uint64(numbers[place + 1])
                places[kept] = place
                kept += 1
        left = kept
        if left == 0:
            break
    return Repetition(distinct, top, duplicate)
