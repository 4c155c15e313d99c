"""Word lists of any length, matched in one pass over a text (Aho-Corasick), on word boundaries and in any case.

A Latin word matches whole: `ass` is not in `class`, nor `bet` in `between`. An entry with any other script in it matches
anywhere, because Chinese has no word boundaries. White space inside an entry is any run of white space in the text.
"""

import re
from collections.abc import Iterable
from functools import cache, cached_property

from ahocorasick_rs import AhoCorasick, MatchKind


def fold(text: str) -> str:
    """A text without case: equal for texts that a case-insensitive regular expression takes for equal.

    Character by character, so that the length and every index stay.
    """
    low = text.lower()
    if text.isascii():
        return low
    table, odd = _cases()
    if len(low) == len(text) and not odd.search(low):
        return low
    return text.translate(table)


@cache
def _cases() -> tuple[dict[int, int], re.Pattern[str]]:
    """Code point → the one that stands for all its cases; and a pattern of those that lower() does not bring there."""
    letters = [c for c in map(chr, range(0x20000)) if c.isalpha() or c.lower() != c or c.upper() != c]
    lower = {ord(c): ord(c.lower()) for c in letters if len(c.lower()) == 1 and c.lower() != c}
    # ſ is an s, ı an i, ς a σ, µ (micro) a μ
    odd = {
        ord(c): ord(upper.lower())
        for c in letters
        if c == c.lower() and len(upper := c.upper()) == 1 and len(upper.lower()) == 1 and upper.lower() != c
    }
    # Pairs that no capital of one character joins; and Turkish İ, whose lower() is two characters long.
    odd |= {0x1FD3: 0x390, 0x1FE3: 0x3B0, 0xFB05: 0xFB06, ord("İ"): ord("i")}
    further = {c: odd[low] for c, low in lower.items() if low in odd}
    return lower | odd | further, re.compile("[" + "".join(map(chr, odd)) + "]")


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

    def find(self, text: str) -> list[str]:
        """The entries found, folded, in the order of the text; of several at one place the longest, none overlapping."""
        if not self.words:
            return []
        automaton, whole = self._automaton
        plain = " ".join(text.split())
        folded = fold(plain)
        hits, covered_to = [], 0
        found = automaton.find_matches_as_indexes(folded, overlapping=True)
        for pattern, start, end in sorted(found, key=lambda match: (match[1], -match[2])):
            if start >= covered_to and (not whole[pattern] or _stands_alone(plain, start, end)):
                hits.append(folded[start:end])
                covered_to = end
        return hits


class Substrings:
    """Whether any of some strings is in a text, in any case; no word boundaries."""

    def __init__(self, parts: Iterable[str]) -> None:
        self._automaton = AhoCorasick([fold(part) for part in parts], matchkind=MatchKind.Standard)

    def any_in(self, text: str) -> bool:
        return bool(self._automaton.find_matches_as_indexes(fold(text)))


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not (start and _is_word(text[start - 1])) and not (end < len(text) and _is_word(text[end]))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
