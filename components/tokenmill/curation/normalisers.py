"""Modifying rules: each takes a text and gives it back with one thing put right. Which apply is a rule set's choice.

The last four take lines or marks away, as C4 did (Raffel et al. 2020, §2.2, and its published code); no rule set that
comes with TokenMill uses them but `published/c4`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy

from tokenmill.curation.document import codes_of


@dataclass(frozen=True)
class Normaliser:
    """A modifying rule, and what it changes: a text with nothing of the kind it leaves as it is."""

    modify: Callable[[str], str]
    characters: re.Pattern[str] | None = None
    """A pattern of one character."""
    line_feeds: tuple[str, ...] = ()
    """Names of line feeds that stand as they should not: `SPACED`, `OUTER`, `BLANK` (see `mapping_kernels.marks`)."""

    def __call__(self, text: str) -> str:
        return self.modify(text)


NORMALISERS: dict[str, Normaliser] = {}


def normaliser(
    characters: re.Pattern[str] | None = None, line_feeds: tuple[str, ...] = ()
) -> Callable[[Callable[[str], str]], Callable[[str], str]]:
    """Register a modifying rule under its name; one that names nothing may change any text."""

    def register(function: Callable[[str], str]) -> Callable[[str], str]:
        NORMALISERS[function.__name__] = Normaliser(function, characters, line_feeds)
        return function

    return register


def normalise(text: str, normalisers: Sequence[Normaliser]) -> str:
    """Apply modifying rules one after the other.

    One compiled look at the text tells which of them have anything to change. None makes a character that a later one
    changes; but line feeds may come to stand otherwise.
    """
    table, wanted = _plan(tuple(normalisers))
    marks = _kernels().marks(codes_of(text), table)
    for one, changes in zip(normalisers, wanted, strict=True):
        if changes & marks or not changes:
            before, text = text, one(text)
            if text != before:
                marks |= _kernels().SPACED | _kernels().OUTER | _kernels().BLANK
    return text


@cache
def _plan(normalisers: tuple[Normaliser, ...]) -> tuple[Any, tuple[int, ...]]:
    """Code point → a bit for each normaliser that changes it, uint8 [0x110000]; and all marks that each answers to."""
    table = numpy.zeros(0x110000, numpy.uint8)
    characters = "".join(map(chr, range(0x10000)))
    wanted = []
    for number, one in enumerate(normalisers):
        if one.characters:
            table[[match.start() for match in one.characters.finditer(characters)]] |= 1 << number
        shapes = sum(getattr(_kernels(), name) for name in one.line_feeds)
        wanted.append(shapes | (1 << number if one.characters else 0))
    return table, tuple(wanted)


@cache
def _kernels() -> Any:
    from tokenmill.curation import mapping_kernels

    return mapping_kernels


_BREAKS = re.compile(r"[\r\u2028\u2029\x85]")
_BREAK = re.compile(r"\r\n?|[\u2028\u2029\x85]")
_INVISIBLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff\xad]")
_WIDE_SPACE = re.compile(r"[\u3000\xa0\u2000-\u200a\u202f\u205f]")
_HAN = re.compile("[\u4e00-\u9fff]")
_HALF_WIDTH = re.compile(r"(?<=[\u4e00-\u9fff])[,;:?!]")
_FULL_WIDTH = str.maketrans(",;:?!", "，；：？！")


@normaliser(characters=_BREAKS, line_feeds=("SPACED", "OUTER"))
def newlines(text: str) -> str:
    """One kind of line break; no white space at line ends."""
    if any(one in text for one in "\r\u2028\u2029\x85"):
        text = _BREAK.sub("\n", text)
    *lines, last = text.split("\n")
    return "\n".join([*[line.rstrip(" \t") for line in lines], last]).strip("\n")


@normaliser(characters=_INVISIBLE)
def zero_width(text: str) -> str:
    """Drop zero-width and control characters, which a reader never saw; tabs and line breaks stay."""
    return _INVISIBLE.sub("", text)


@normaliser(line_feeds=("BLANK",))
def blank_lines(text: str) -> str:
    """At most two blank lines in a row."""
    while "\n\n\n\n" in text:
        text = text.replace("\n\n\n\n", "\n\n\n")
    return text


@normaliser(characters=_WIDE_SPACE)
def wide_spaces(text: str) -> str:
    """Full-width and no-break spaces become plain ones."""
    return _WIDE_SPACE.sub(" ", text)


@normaliser(characters=_HAN)
def cjk_punctuation(text: str) -> str:
    """ASCII punctuation straight after a Han character becomes full-width: 好,吗? → 好，吗？"""
    return _HALF_WIDTH.sub(lambda match: match[0].translate(_FULL_WIDTH), text)


# --- C4's line rules -------------------------------------------------------------------------------------------------

_POLICY = re.compile(
    r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies", re.IGNORECASE
)
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_TERMINAL = tuple(".!?\"'。！？”’」』")
_OPEN_END = ("...", "…")


@normaliser()
def terminal_lines(text: str) -> str:
    """C4: only lines that end in a terminal punctuation mark or a quotation mark stay; an ellipsis is none."""
    return _lines(text, lambda line: line.endswith(_TERMINAL) and not line.endswith(_OPEN_END))


@normaliser()
def wordy_lines(text: str) -> str:
    """C4: only lines of at least three words stay. For languages that put spaces between words."""
    return _lines(text, lambda line: len(line.split(None, 3)) >= 3)


@normaliser()
def script_and_policy_lines(text: str) -> str:
    """C4: lines that mention Javascript, cookies or terms of use go."""
    return _lines(text, lambda line: "javascript" not in line.lower() and not _POLICY.search(line))


@normaliser()
def citations(text: str) -> str:
    """C4: marks of Wikipedia's notes go: [1], [edit], [citation needed]."""
    return _CITATION.sub("", text)


def _lines(text: str, stays: Callable[[str], bool]) -> str:
    """The text without the lines that do not stay; empty ones part paragraphs and stay."""
    kept = [line for line in text.split("\n") if not (bare := line.strip()) or stays(bare)]
    return "\n".join(kept).strip("\n")
