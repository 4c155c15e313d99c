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
Table = NDArray[numpy.int64]
F = TypeVar("F", bound=Callable[..., Any])


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


def compiled(*signature: types.Type) -> Callable[[F], F]:
    """Compile ahead for one signature, from the cache where there is one and without it where none can be written."""

    def compile_(function: Any) -> Any:
        try:
            return numba.njit(signature, cache=True)(function)
        except RuntimeError as failure:  # no folder to keep a cache in: a read-only image without a home
            if "cannot cache" not in str(failure):
                raise
            return numba.njit(signature)(function)

    return compile_


CODES = types.Array(types.uint32, 1, "C", readonly=True)
_KINDS = types.Array(types.uint16, 1, "C")
_LOWER = types.Array(types.uint32, 1, "C")
_HASHES = types.Array(types.uint64, 1, "C")
_NUMBERS = types.Array(types.int64, 1, "C")
_TABLE = types.Array(types.int64, 2, "C")

# Kinds of characters, flags in the table `kinds`. They stand here and not beside the table, because numba compiles anew
# when this file changes, not when another does.
WHITE, LETTER, CORE, HAN, PUNCTUATION, CONTROL, ENDS, CLOSES = (1 << bit for bit in range(8))
BULLET, SPACED_BULLET, ELLIPSIS, TERMINAL, SEPARATOR, STRANGE, CASED_TWICE, RARE = (1 << bit for bit in range(8, 16))
_PLAIN = WHITE | LETTER | CORE | CLOSES
"""What a letter or a space is, and nothing that `_strangers` must look at more closely."""

SPACED, OUTER, BLANK = (1 << bit for bit in range(8, 11))
"""Line feeds with a space or tab before them, at an end of the text, or more than three in a row (see `marks`)."""

_LINE_FEED, _SPACE, _TAB = map(ord, "\n \t")
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

_DISTINCT, _TOP, _TIMES, _DUPLICATE = range(4)

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


@compiled(CODES, _LOWER, types.boolean)
def squeezed(codes: Codes, table: Any, after_space: bool) -> Any:
    """Every character as the table gives it, without the spaces that follow a space."""
    out = numpy.empty(len(codes), numpy.uint32)
    made = 0
    for code in codes:
        mapped = table[code]
        is_space = mapped == _SPACE
        out[made] = mapped
        made += not (is_space and after_space)
        after_space = is_space
    return out[:made].copy()


@compiled(CODES, types.Array(types.uint8, 1, "C"))
def marks(codes: Codes, table: Any) -> int:
    """The marks that `table` puts on any of the characters, and SPACED, OUTER or BLANK where the text has such line feeds."""
    found: Any = 0
    feeds = 0
    before: Any = numpy.uint32(_LINE_FEED)
    for code in codes:
        found |= table[code]
        if code == _LINE_FEED:
            feeds += 1
            if before in (_SPACE, _TAB):
                found |= SPACED
            if feeds > 3:
                found |= BLANK
        else:
            feeds = 0
        before = code
    if len(codes) and (codes[0] == _LINE_FEED or before == _LINE_FEED):
        found |= OUTER
    return found


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


@compiled(CODES, _KINDS, _LOWER, types.int64)
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


@compiled(CODES, _TABLE, types.int64)
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


@compiled(_TABLE, types.int64)
def lines_below(bounds: Table, words: int) -> int:
    """How many lines have fewer than so many words."""
    below = 0
    for line in range(bounds.shape[1]):
        below += bounds[3, line] < words
    return below


@compiled(_HASHES, _HASHES)
def present(hashes: Hashes, wanted: Hashes) -> int:
    """How many of the wanted hashes are there."""
    found = 0
    for one in wanted:
        for each in hashes:
            if each == one:
                found += 1
                break
    return found


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


@compiled(_HASHES, _NUMBERS, types.int64)
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
