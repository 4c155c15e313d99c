"""Word lists of any length, matched in one pass over a text (Aho-Corasick), on word boundaries and in any case.

A Latin word matches whole: `ass` is not in `class`, nor `bet` in `between`. An entry with any other script in it matches
anywhere, because Chinese has no word boundaries. White space inside an entry is any run of white space in the text.
"""

from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from typing import Any

import numpy
from ahocorasick_rs import AhoCorasick, BytesAhoCorasick, MatchKind
from numpy.typing import NDArray

from tokenmill.curation.document import codes_of

_PIECE = 1 << 20
"""Characters that are mapped at once: a text takes four bytes a character while it is."""
_COMMON = frozenset("etaoinshrdlu")
_FEW = 8
"""Characters that are looked for one by one; to fold a text costs more."""


def fold(text: str) -> str:
    """A text without case: equal for texts that a case-insensitive regular expression takes for equal.

    Character by character, so that the length and every index stay.
    """
    if text.isascii():
        return text.lower()
    return "".join(_text(_cases()[codes]) for codes in _codes(text))


def folded_words(text: str) -> str:
    """`fold`, with one space for every run of white space, and none at the ends."""
    pieces, ends_in_space = [], True
    for codes in _codes(text):
        folded = _kernels().squeezed(codes, _spaced_cases(), ends_in_space)
        pieces.append(_text(folded))
        ends_in_space = pieces[-1].endswith(" ") if len(folded) else ends_in_space
    return "".join(pieces).rstrip(" ")


def _codes(text: str) -> Iterator[NDArray[numpy.uint32]]:
    """A text's code points, a piece after the other."""
    for at in range(0, len(text), _PIECE):
        yield codes_of(text[at : at + _PIECE])


def _text(codes: NDArray[numpy.uint32]) -> str:
    return codes.tobytes().decode("utf-32-le", "surrogatepass")


@cache
def _kernels() -> Any:
    from tokenmill.curation import mapping_kernels

    return mapping_kernels


@cache
def _cases() -> NDArray[numpy.uint32]:
    """Code point → the one that stands for all its cases."""
    table = numpy.arange(0x110000, dtype="<u4")
    for character in map(chr, range(0x20000)):  # beyond, nothing has a case
        low = character.lower()
        if len(low) == 1:
            table[ord(character)] = ord(low)
    # What lower() does not bring together: ſ is an s, ı an i, ς a σ, µ (micro) a μ
    odd = {}
    for character in map(chr, range(0x20000)):
        upper = character.upper()
        if character == character.lower() and len(upper) == 1 and len(upper.lower()) == 1:
            odd[ord(character)] = ord(upper.lower())
    # Pairs that no capital of one character joins; and Turkish İ, whose lower() is two characters long.
    odd |= {0x1FD3: 0x390, 0x1FE3: 0x3B0, 0xFB05: 0xFB06, ord("İ"): ord("i")}
    brought = numpy.arange(0x110000, dtype="<u4")
    brought[list(odd)] = list(odd.values())
    return brought[table]


@cache
def _spaced_cases() -> NDArray[numpy.uint32]:
    """`_cases`, and a space for all white space."""
    table = _cases().copy()
    table[[code for code in range(0x10000) if chr(code).isspace()]] = ord(" ")
    return table


class Substrings:
    """Whether any of some strings is in a text, in any case; no word boundaries.

    A text is looked at as bytes, of which only ASCII has a case. That is enough unless it has one of the few characters whose
    other case the strings are written in: the letters ſ, ı, İ and the sign K where these are English.
    """

    def __init__(self, parts: Iterable[str]) -> None:
        folded = [fold(part) for part in parts]
        # This kind of search leaps from one rare byte to the next; the others read every byte
        self._automaton = BytesAhoCorasick([part.encode() for part in folded], matchkind=MatchKind.LeftmostFirst)
        letters = set(map(ord, "".join(folded)))
        self._odd = [chr(code) for letter in letters for code in _others_of(letter)]

    def any_in(self, text: str) -> bool:
        if not text.isascii() and (len(self._odd) > _FEW or any(odd in text for odd in self._odd)):
            text = fold(text)
        return bool(self._automaton.find_matches_as_indexes(text.encode("utf-8", "surrogatepass").lower()))


def _others_of(letter: int) -> list[int]:
    """The characters beyond ASCII that fold to a letter, apart from itself."""
    return [code for code in _by_fold().get(letter, ()) if code > 127 and code != letter]


@cache
def _by_fold() -> dict[int, list[int]]:
    """Letter → the characters that fold to it, of those that fold to another."""
    found: dict[int, list[int]] = {}
    cases = _cases()
    for code in numpy.flatnonzero(cases != numpy.arange(len(cases), dtype=cases.dtype)).tolist():
        found.setdefault(int(cases[code]), []).append(code)
    return found


class WordList:
    """Finds the entries of a list in a text.

    Only its words are pickled: each process builds the automaton anew, in about 1.5 µs an entry.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(sorted({" ".join(word.split()) for word in words} - {""}))

    def __getstate__(self) -> tuple[str, ...]:
        return self.words

    def __setstate__(self, words: tuple[str, ...]) -> None:
        self.words = words

    @cached_property
    def _automaton(self) -> tuple[AhoCorasick, list[bool]]:
        """The automaton, and for each of its patterns whether it matches whole words only."""
        patterns: dict[str, bool] = {}
        for word in self.words:  # `Bad` and `bad` are one; of `ſad` and `sad`, which are one too, the wider rule holds
            patterns[fold(word)] = patterns.get(fold(word), True) and word.isascii()
        return AhoCorasick(list(patterns), matchkind=MatchKind.Standard), list(patterns.values())

    @cached_property
    def _rarest_words(self) -> Substrings:
        """Of each entry; a text with none of them has none of the entries."""
        return Substrings({max(entry.split(), key=_rarity) for entry in self.words})

    def find(self, text: str) -> list[str]:
        """The entries found, folded, in the order of the text; of several at one place the longest, none overlapping."""
        if not self.words or not self._rarest_words.any_in(text):
            return []
        automaton, whole = self._automaton
        folded = folded_words(text)
        found = automaton.find_matches_as_indexes(folded, overlapping=True)
        if not found:
            return []
        plain = " ".join(text.split())  # of the letters beside a word: some mark folds to a letter
        hits, covered_to = [], 0
        for pattern, start, end in sorted(found, key=lambda match: (match[1], -match[2])):
            if start >= covered_to and (not whole[pattern] or _stands_alone(plain, start, end)):
                hits.append(folded[start:end])
                covered_to = end
        return hits


def _rarity(word: str) -> int:
    """Grows with how seldom a word is to be expected: with its length, and the letters that are rare in English."""
    return sum(1 if letter in _COMMON else 2 for letter in word)


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not (start and _is_word(text[start - 1])) and not (end < len(text) and _is_word(text[end]))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
