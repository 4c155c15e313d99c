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
    """A modifying rule, and which characters it changes: a text without any of them it leaves as it is."""

    modify: Callable[[str], str]
    changes: re.Pattern[str] | None = None
    """A pattern of one character; of any text without it."""

    def __call__(self, text: str) -> str:
        return self.modify(text)


NORMALISERS: dict[str, Normaliser] = {}


def normaliser(changes: re.Pattern[str] | None = None) -> Callable[[Callable[[str], str]], Callable[[str], str]]:
    """Register a modifying rule under its name."""

    def register(function: Callable[[str], str]) -> Callable[[str], str]:
        NORMALISERS[function.__name__] = Normaliser(function, changes)
        return function

    return register


def normalise(text: str, normalisers: Sequence[Normaliser]) -> str:
    """Apply modifying rules one after the other.

    One compiled look at the text tells which of them have anything to change. None makes a character that a later one
    changes.
    """
    marks = _kernels().marks(codes_of(text), _marks(tuple(normalisers)))
    for number, one in enumerate(normalisers):
        if one.changes is None or marks >> number & 1:
            text = one(text)
    return text


@cache
def _marks(normalisers: tuple[Normaliser, ...]) -> Any:
    """Code point → a bit for each normaliser that changes it: uint8 [0x110000]."""
    table = numpy.zeros(0x110000, numpy.uint8)
    characters = "".join(map(chr, range(0x10000)))
    for number, one in enumerate(normalisers):
        if one.changes:
            table[[match.start() for match in one.changes.finditer(characters)]] |= 1 << number
    return table


@cache
def _kernels() -> Any:
    from tokenmill.curation import text_kernels

    return text_kernels


_BREAKS = ("\r", "\u2028", "\u2029", "\x85")
_BREAK = re.compile(r"\r\n?|[\u2028\u2029\x85]")
_INVISIBLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff\xad]")
_WIDE_SPACE = re.compile(r"[\u3000\xa0\u2000-\u200a\u202f\u205f]")
_HAN = re.compile("[\u4e00-\u9fff]")
_HALF_WIDTH = re.compile(r"(?<=[\u4e00-\u9fff])[,;:?!]")
_FULL_WIDTH = str.maketrans(",;:?!", "，；：？！")


@normaliser()
def newlines(text: str) -> str:
    """One kind of line break; no white space at line ends."""
    if any(one in text for one in _BREAKS):
        text = _BREAK.sub("\n", text)
    if " \n" in text or "\t\n" in text:
        *lines, last = text.split("\n")
        text = "\n".join([*[line.rstrip(" \t") for line in lines], last])
    return text.strip("\n")


@normaliser(changes=_INVISIBLE)
def zero_width(text: str) -> str:
    """Drop zero-width and control characters, which a reader never saw; tabs and line breaks stay."""
    return _INVISIBLE.sub("", text)


@normaliser()
def blank_lines(text: str) -> str:
    """At most two blank lines in a row."""
    while "\n\n\n\n" in text:
        text = text.replace("\n\n\n\n", "\n\n\n")
    return text


@normaliser(changes=_WIDE_SPACE)
def wide_spaces(text: str) -> str:
    """Full-width and no-break spaces become plain ones."""
    return _WIDE_SPACE.sub(" ", text)


@normaliser(changes=_HAN)
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
