"""Compiled passes that count: characters, words and lines of a document, all in one look at each character.

A text is an array of code points, uint32. Words are told apart by 64-bit hashes.
"""

from typing import Any, NamedTuple

import numba
import numpy
from numba import types

from tokenmill.compiling import CODES, HASHES, KINDS, LOWER, TABLE, Codes, Hashes, Kinds, Table, compiled

# Kernels return plain tuples, and those who call them put these names on: numba's own way to a named tuple takes longer
# than the count of a short document.


class Counts(NamedTuple):
    """What `read` counts in a whole text; in characters where the name says no other unit."""

    white: int
    words: int
    """Runs of characters that are not white space."""
    tokens: int
    """Words in which something is left without the punctuation around them."""
    lettered_words: int
    """Words that hold a letter."""
    letters: int
    lines: int
    """Lines that are not empty; the next three are of them."""
    bullet_lines: int
    """Lines that start with a bullet."""
    ellipsis_lines: int
    """Lines that end with an ellipsis."""
    terminal_lines: int
    """Lines that end with a terminal punctuation mark."""
    line_feeds: int
    blank_run: int
    """Line feeds in the longest run of white space."""
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
    separators: int
    """Characters in runs of at least four equal separators (====, ----)."""
    cased_twice: int
    """Characters whose lower case is no single character."""
    javascript: int
    """Occurrences of the word, in upper or lower case."""
    lorem_ipsum: int


# Kinds of characters, flags in the table `kinds`. They stand here and not beside the table: see `compiling`.
WHITE, LETTER, CORE, HAN, PUNCTUATION, CONTROL, ENDS, CLOSES = (1 << bit for bit in range(8))
BULLET, SPACED_BULLET, ELLIPSIS, TERMINAL, SEPARATOR, STRANGE, CASED_TWICE, RARE = (1 << bit for bit in range(8, 16))
_PLAIN = WHITE | LETTER | CORE | CLOSES
"""What a letter or a space is, and nothing that `_strangers` must look at more closely."""

_LINE_FEED, _SPACE = map(ord, "\n ")
_HASH, _CURLY, _DOT, _WIDE_DOT, _ELLIPSIS, _REPLACEMENT = map(ord, "#{.。…�")
_JAVASCRIPT = tuple(map(ord, "javascript"))
_LOREM_IPSUM = tuple(map(ord, "lorem ipsum"))
_BEFORE_P = "lorem ipsum".index("p")
_A_TILDE, _A_CIRCUMFLEX, _SMALL_A_CIRCUMFLEX, _EURO = map(ord, "ÃÂâ€")
_AFTER_EURO = tuple(map(ord, "™œ\x9d“”˜"))
_SCARS = (tuple(map(ord, "锟斤拷")), tuple(map(ord, "ï¿½")))
_LONG_S, _DOTLESS_I, _SMALL_S, _SMALL_I = map(ord, "ſısi")
RARE_CHARACTERS = "jJpPÃÂâ锟ï�"
"""What may begin one of the sequences above, the p of ipsum, and what is counted by itself: marked RARE."""

_SEED = numpy.uint64(0xCBF29CE484222325)
_PRIME = numpy.uint64(0x9E3779B97F4A7C15)
_SHUFFLE = numpy.uint64(0xD6E8FEB86659FD93)
_HALF = numpy.uint64(32)


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
    if code in (_A_TILDE, _A_CIRCUMFLEX):
        return 2 if left > 1 and 0x80 <= codes[at + 1] <= 0xBF else 0
    if left < 3:
        return 0
    second, third = codes[at + 1], codes[at + 2]
    if code == _SMALL_A_CIRCUMFLEX and second == _EURO:
        return 3 if 0x80 <= third <= 0xBF or third in _AFTER_EURO else 0
    for scar in _SCARS:
        if code == scar[0] and second == scar[1] and third == scar[2]:
            return 3
    return 0


@numba.njit
def _strangers(codes: Any, kinds: Any, lower: Any, places: Any) -> Any:
    """What the characters that are neither plain letters nor plain spaces add to `Counts`."""
    han = punctuation = control = replacement = strange = mojibake = ends = marks = hashes = ellipses = curly = 0
    separators = twice = javascript = lorem_ipsum = run = wrong_until = run_until = 0
    n = len(codes)
    for k in range(len(places)):
        i = places[k]
        code = codes[i]
        kind: Any = numpy.int64(kinds[code])
        han += (kind & HAN) != 0
        punctuation += (kind & PUNCTUATION) != 0
        control += (kind & CONTROL) != 0
        strange += (kind & STRANGE) != 0
        marks += (kind & TERMINAL) != 0
        twice += (kind & CASED_TWICE) != 0
        hashes += code == _HASH
        curly += code == _CURLY
        ellipses += code == _ELLIPSIS
        if kind & ENDS:
            ends += i + 1 == n or (kinds[codes[i + 1]] & CLOSES) != 0
        if kind & (SEPARATOR | ELLIPSIS):
            run = run + 1 if i == run_until and code == codes[i - 1] else 1
            run_until = i + 1
            if kind & SEPARATOR and run >= 4:
                separators += 4 if run == 4 else 1
            ellipses += code in (_DOT, _WIDE_DOT) and run % 3 == 0
        if kind & RARE:
            if kind & LETTER:
                javascript += _reads(codes, i, _JAVASCRIPT, lower)
                lorem_ipsum += i >= _BEFORE_P and _reads(codes, i - _BEFORE_P, _LOREM_IPSUM, lower)
            replacement += code == _REPLACEMENT
            length = _mojibake(codes, i) if i >= wrong_until else 0
            if length:
                mojibake += 1
                wrong_until = i + length
    return (
        *(han, punctuation, control, replacement, mojibake, strange, ends, marks, hashes, ellipses, curly, separators),
        *(twice, javascript, lorem_ipsum),
    )


@numba.njit
def _finished(state: Any) -> Any:
    state ^= state >> _HALF
    state *= _SHUFFLE
    return state ^ (state >> _HALF)


@numba.njit
def _starts_with_bullet(codes: Any, kinds: Any, start: int, end: int) -> bool:
    kind = kinds[codes[start]]
    if kind & SPACED_BULLET:
        return start + 1 < end and codes[start + 1] == _SPACE
    return (kind & BULLET) != 0


@numba.njit
def _ends_with_ellipsis(codes: Any, start: int, end: int) -> bool:
    code = codes[end - 1]
    if code in (_DOT, _WIDE_DOT):
        return end - start >= 3 and codes[end - 2] == code and codes[end - 3] == code
    return code == _ELLIPSIS


@compiled(CODES, KINDS, LOWER, types.int64)
def read(codes: Codes, kinds: Kinds, lower: Any, line_feeds: int) -> tuple[Any, ...]:
    """Everything that one look at each character of a text with so many line feeds tells.

    Returns `Counts`; hash and length of each lower-cased word without the punctuation around it; and of each line that is not
    empty a column: start, end without the white space around it, line feeds since the one before, words.

    What most characters are, letters and spaces, is dealt with word by word, and nothing else is asked of them; where the
    others stand is noted, and `_strangers` looks at them afterwards.
    """
    n = len(codes)
    hashes, lengths = numpy.empty(n // 2 + 1, numpy.uint64), numpy.empty(n // 2 + 1, numpy.int64)
    others, noted = numpy.empty(n, numpy.int32), 0
    bounds = numpy.empty((4, line_feeds + 1), numpy.int64)
    white = words = tokens = lettered = letters = made = blank_run = bullets = ellipses = 0
    terminals = gap = in_line = start = end = i = 0
    while True:
        feeds = 0
        while i < n and kinds[codes[i]] & WHITE:
            others[noted] = i
            noted += (kinds[codes[i]] & ~_PLAIN) != 0
            white += 1
            if codes[i] == _LINE_FEED:
                feeds += 1
            i += 1
        blank_run = max(blank_run, feeds)
        if in_line and (feeds or i == n):
            bounds[0, made], bounds[1, made], bounds[2, made], bounds[3, made] = start, end, gap, in_line
            made += 1
            bullets += _starts_with_bullet(codes, kinds, start, end)
            ellipses += _ends_with_ellipsis(codes, start, end)
            terminals += (kinds[codes[end - 1]] & TERMINAL) != 0
            in_line = gap = 0
        gap += feeds
        if i == n:
            break
        if not in_line:
            start = i
        while i < n and not kinds[codes[i]] & (WHITE | CORE):  # punctuation before a word is not the word's
            others[noted] = i
            noted += 1
            i += 1
        state = settled = _SEED
        first = last = i
        seen: Any = numpy.int64(0)
        while i < n:
            kind: Any = numpy.int64(kinds[codes[i]])
            if kind & WHITE:
                break
            others[noted] = i
            noted += (kind & ~_PLAIN) != 0
            state = (state ^ lower[codes[i]]) * _PRIME
            letters += (kind & LETTER) != 0
            seen |= kind
            i += 1
            if kind & CORE:  # what follows the last such character is not the word's
                settled, last = state, i
        end = i
        hashes[tokens], lengths[tokens] = _finished(settled), last - first
        tokens += last > first
        lettered += (seen & LETTER) != 0
        words += 1
        in_line += 1
    counts = (white, words, tokens, lettered, letters, made, bullets, ellipses, terminals)
    strangers = _strangers(codes, kinds, lower, others[:noted])
    return (*counts, line_feeds, blank_run, *strangers), hashes[:tokens], lengths[:tokens], bounds[:, :made].copy()


@compiled(TABLE, types.int64)
def lines_below(bounds: Table, words: int) -> int:
    """How many lines have fewer than so many words."""
    below = 0
    for line in range(bounds.shape[1]):
        below += bounds[3, line] < words
    return below


@compiled(HASHES, HASHES)
def present(hashes: Hashes, wanted: Hashes) -> int:
    """How many of the wanted hashes are there."""
    found = 0
    for one in wanted:
        for each in hashes:
            if each == one:
                found += 1
                break
    return found
