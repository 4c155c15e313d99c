"""Kinds of characters, as one word of flags for each of Unicode's code points: kernels look up what Python would ask.

White space, letters and lower case are Python's own (`str.isspace`, `str.isalpha`, `str.lower`), so that a compiled
statistic equals the one that Python's string methods give.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy
from numpy.typing import NDArray

from tokenmill.curation.text_kernels import (
    BULLET,
    CASED_TWICE,
    CLOSES,
    CONTROL,
    CORE,
    ELLIPSIS,
    ENDS,
    HAN,
    LETTER,
    PUNCTUATION,
    RARE,
    RARE_CHARACTERS,
    SEPARATOR,
    SPACED_BULLET,
    STRANGE,
    TERMINAL,
    WHITE,
)

CODE_POINTS = 0x110000

BULLETS = ("•", "‣", "●", "○", "■", "□", "▪", "▫", "–", "- ", "* ", "· ")

EDGES = "\"'“”‘’.,;:!?()[]{}<>*_#`~-—…"
"""Punctuation that is taken off both ends of a word; a word is more than that if it has a CORE character."""

_RANGES: dict[int, tuple[tuple[int, int], ...]] = {
    HAN: ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2EBEF)),
    PUNCTUATION: (
        *((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E), (0x2010, 0x205E), (0x3001, 0x301F)),
        *((0xFF00, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF60)),
    ),
    CONTROL: (
        *((0x00, 0x08), (0x0B, 0x0C), (0x0E, 0x1F), (0x7F, 0x9F)),
        *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x2060), (0xFEFF, 0xFEFF)),
    ),
    # private use, non-characters and halves of surrogate pairs: no font shows them, no reader wrote them
    STRANGE: (
        *((0xD800, 0xDFFF), (0xE000, 0xF8FF), (0xFDD0, 0xFDEF), (0xF0000, 0x10FFFF)),
        *((plane | 0xFFFE, plane | 0xFFFF) for plane in range(0, CODE_POINTS, 0x10000)),
    ),
    CLOSES: ((0x80, CODE_POINTS - 1),),
}
_MEMBERS: dict[int, Iterable[str]] = {
    ENDS: ".!?。！？…",  # a sentence
    CLOSES: "\"'”’」』)）",  # may follow the end of a sentence, as white space and anything beyond ASCII
    BULLET: [mark for mark in BULLETS if len(mark) == 1],
    SPACED_BULLET: [mark[0] for mark in BULLETS if len(mark) == 2],
    ELLIPSIS: "….。",
    TERMINAL: ".!?。！？．｡؟۔।॥‼⁇⁈⁉",
    SEPARATOR: "=-_*#~+.·•—–─━═|/\\",
    RARE: RARE_CHARACTERS,
    CASED_TWICE: "Σİ",  # lower case is two characters, or depends on the place in the word
}


@dataclass(frozen=True)
class Tables:
    """`kinds[c]`: the flags of code point c. `lower[c]`: its lower case."""

    kinds: NDArray[numpy.uint16]
    lower: NDArray[numpy.uint32]


@cache
def tables() -> Tables:
    """The tables of this Python's Unicode version."""
    codes = numpy.arange(CODE_POINTS, dtype=numpy.uint32)
    each = codes.view("U1")
    kinds = numpy.zeros(CODE_POINTS, numpy.uint16)
    kinds[numpy.char.isspace(each)] |= WHITE | CLOSES
    kinds[numpy.char.isalpha(each)] |= LETTER
    for kind, ranges in _RANGES.items():
        for first, last in ranges:
            kinds[first : last + 1] |= kind
    for kind, members in _MEMBERS.items():
        kinds[[ord(member) for member in members]] |= kind
    kinds[(kinds & WHITE) == 0] |= CORE
    kinds[[ord(edge) for edge in EDGES]] &= ~numpy.uint16(CORE)
    return Tables(kinds, _lower(codes))


def _lower(codes: NDArray[numpy.uint32]) -> NDArray[numpy.uint32]:
    """Lower case by code point. Σ and İ have none of their own (see `CASED_TWICE`); they get σ and i."""
    lower = codes.copy()
    whole = codes[numpy.r_[0:0xD800, 0xE000:CODE_POINTS]]  # surrogates have no case, and no encoding
    alone = numpy.where(whole == 0x130, ord("i"), whole).astype("<u4").tobytes().decode("utf-32-le")
    # a Σ at the end of a word would become ς: in this string each stands between characters, but not between letters
    lower[whole] = numpy.frombuffer(alone.replace("Σ", "σ").lower().encode("utf-32-le"), "<u4")
    return lower
