"""Word lists of any length, matched in one pass over a text (Aho-Corasick), on word boundaries and in any case.

A Latin word matches whole: `ass` is not in `class`, nor `bet` in `between`. An entry with any other script in it matches
anywhere, because Chinese has no word boundaries. White space inside an entry is any run of white space in the text.
"""

import re
from collections.abc import Iterable
from functools import cached_property

from ahocorasick_rs import AhoCorasick, MatchKind

# Letters that are another's case but that lower() leaves as they are: ſ is an s, ı an i, ς a σ, µ (micro) a μ.
_ALIKE = {
    ord(c): ord(upper.lower())
    for c in map(chr, range(128, 0x20000))
    if c == c.lower() and len(upper := c.upper()) == 1 and len(upper.lower()) == 1 and upper.lower() != c
}
# Pairs that no capital of one character joins; and Turkish İ, whose lower() is two characters long.
_ALIKE |= {0x1FD3: 0x390, 0x1FE3: 0x3B0, 0xFB05: 0xFB06, ord("İ"): ord("i")}
_LOWER = {ord(c): ord(c.lower()) for c in map(chr, range(0x20000)) if len(c.lower()) == 1 and c.lower() != c}
_FOLD = _LOWER | _ALIKE | {c: _ALIKE[low] for c, low in _LOWER.items() if low in _ALIKE}
_NEEDS_MORE = re.compile("[" + "".join(map(chr, _ALIKE)) + "]")


def fold(text: str) -> str:
    """A text without case: equal for texts that a case-insensitive regular expression takes for equal.

    Character by character, so that the length and every index stay.
    """
    low = text.lower()
    if text.isascii() or (len(low) == len(text) and not _NEEDS_MORE.search(low)):
        return low
    return text.translate(_FOLD)


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


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not (start and _is_word(text[start - 1])) and not (end < len(text) and _is_word(text[end]))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
