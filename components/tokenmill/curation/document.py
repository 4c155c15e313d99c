"""What rules and grades look at: a document's words, lines and shares, each computed once and only when asked for.

The statistics come from compiled passes over the text's code points: one that counts characters and words
(`text_kernels`), one a kind of part (lines, paragraphs) and one over the hashes of the words (`repetition_kernels`). A
rule that needs none starts none.
"""

import re
from collections.abc import Sequence
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from tokenmill.compiling import Codes, Hashes, Numbers, Table
    from tokenmill.curation.characters import Tables
    from tokenmill.curation.repetition_kernels import Repetition
    from tokenmill.curation.text_kernels import Counts

_WORD = re.compile(r"\S+")
_EDGE = "\"'“”‘’.,;:!?()[]{}<>*_#`~-—…"
_LONGEST_GRAM = 10


class Document:
    """A text with a language and the statistics of both; `units` are words, in Chinese characters."""

    def __init__(self, text: str, lang: str = "en") -> None:
        self.text = text
        self.lang = lang
        self.codes = codes_of(text)
        counts, self.hashed_tokens, self.line_bounds = _read(self.codes, text.count("\n"))
        self.counts: Counts = _kernels().Counts(*counts)
        if self.counts.cased_twice:
            # Σ and İ have a lower case that no table by character gives: Python writes such a document's tokens out
            self.hashed_tokens = _read(codes_of(" ".join(self.tokens)), line_feeds=0)[1]

    # --- characters and words ---

    @property
    def n_characters(self) -> int:
        """Characters that are not white space."""
        return len(self.text) - self.counts.white

    @property
    def n_units(self) -> int:
        return self.n_characters if self.lang == "zh" else self.counts.tokens

    @property
    def n_sentences(self) -> int:
        return self.counts.sentence_ends

    @property
    def mean_word_length(self) -> float:
        return share(self.n_characters, self.counts.words)

    @property
    def han_share(self) -> float:
        """Han characters among all characters that are not white space."""
        return share(self.counts.han, self.n_characters)

    @property
    def punctuation_share(self) -> float:
        return share(self.counts.punctuation, self.n_characters)

    @property
    def alphabetic_share(self) -> float:
        return share(self.counts.letters, self.n_characters)

    @property
    def control_share(self) -> float:
        return share(self.counts.control, len(self.text))

    @property
    def replacement_share(self) -> float:
        return share(self.counts.replacement, len(self.text))

    @property
    def mojibake_share(self) -> float:
        return share(2 * self.counts.mojibake, len(self.text))

    # --- lines and paragraphs, without the white space around them; empty ones do not count ---

    @property
    def line_lengths(self) -> "Numbers":
        return self.line_bounds[1] - self.line_bounds[0]

    @cached_property
    def lines(self) -> list[str]:
        return self._texts(*self.line_bounds[:2])

    @cached_property
    def paragraphs(self) -> list[str]:
        return self._texts(*self._paragraph_bounds)

    @cached_property
    def repeated_lines(self) -> tuple[float, float]:
        """(share of lines that repeat an earlier one, share of the lines' characters in them)."""
        return self._repeated(gap=1)

    @cached_property
    def repeated_paragraphs(self) -> tuple[float, float]:
        if not self.repeated_lines[0]:  # then no paragraph can
            return 0.0, 0.0
        return self._repeated(gap=2)

    def _repeated(self, gap: int) -> tuple[float, float]:
        passes = _repetition_kernels()
        found = passes.Repeated(*passes.repeated(self.codes, self.line_bounds, gap))
        return share(found.again, found.parts), share(found.again_characters, found.characters)

    def lines_below(self, words: int) -> float:
        """Share of lines of fewer than `words` words."""
        return share(_kernels().lines_below(self.line_bounds, words), self.counts.lines)

    @property
    def _paragraph_bounds(self) -> "tuple[Numbers, Numbers]":
        """Lines with no empty line between them are one paragraph."""
        starts, ends, gaps, _ = self.line_bounds
        opens = gaps >= 2
        opens[:1] = True
        closes = numpy.roll(opens, -1)  # where the next opens, and at the end, because the first opens
        return starts[opens], ends[closes]

    def _texts(self, starts: "Numbers", ends: "Numbers") -> list[str]:
        return [self.text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    # --- units: distinct ones, and sequences of them that repeat ---

    @cached_property
    def tokens(self) -> list[str]:
        """Lower-cased words without the punctuation around them."""
        stripped = (word.strip(_EDGE).lower() for word in _WORD.findall(self.text))
        return [token for token in stripped if token]

    @property
    def units(self) -> Sequence[str]:
        """The units as strings, which are not made before one is asked for; their number is at hand."""
        return _Units(self)

    @property
    def hashed_units(self) -> "tuple[Hashes, Numbers]":
        """Hash and length of each unit."""
        return self._hashed_characters if self.lang == "zh" else self.hashed_tokens

    @cached_property
    def _hashed_characters(self) -> "tuple[Hashes, Numbers]":
        inked = self.codes[(_tables().kinds[self.codes] & _kernels().WHITE) == 0]
        return inked.astype(numpy.uint64), numpy.ones(len(inked), numpy.int64)

    @property
    def n_stop_words(self) -> int:
        """Different ones of Gopher's eight English stop words."""
        return _kernels().present(self.hashed_tokens[0], _stop_words())

    @cached_property
    def n_unit_characters(self) -> int:
        return self.n_characters if self.lang == "zh" else int(numpy.add.reduce(self.hashed_tokens[1]))

    @property
    def unique_share(self) -> float:
        return share(self._repetition(1).distinct[1], self.n_units)

    def top_ngram_share(self, n: int) -> float:
        """Share of characters in the occurrences of the most frequent n-gram (0 if nothing occurs twice).

        Among equally frequent n-grams it is the longest, so that the answer does not hang on the order of words.
        """
        return share(self.top_ngram_characters(n), self.n_unit_characters)

    def top_ngram_characters(self, n: int, spaces: int = 0) -> int:
        """The characters of those occurrences, with so many spaces between units."""
        found = self._repetition(n)
        return found.top[n] + found.times[n] * (n - 1) * spaces

    def duplicate_ngram_share(self, n: int) -> float:
        """Share of characters that lie in an n-gram seen before, no character counted twice (Gopher, A.1)."""
        return share(self.duplicate_ngram_characters(n), self.n_unit_characters)

    def duplicate_ngram_characters(self, n: int) -> int:
        return self._repetition(n).duplicate[n]

    def _repetition(self, n: int) -> "Repetition":
        if self._repetitions is None or len(self._repetitions.top) <= n:
            longest = max(n, 1 if n == 1 else _LONGEST_GRAM)
            passes = _repetition_kernels()
            self._repetitions = passes.Repetition(*passes.repetition(*self.hashed_units, longest).tolist())
        return self._repetitions

    _repetitions: "Repetition | None" = None


class _Units(Sequence[str]):
    def __init__(self, doc: Document) -> None:
        self._doc = doc

    @cached_property
    def _made(self) -> Sequence[str]:
        return "".join(_WORD.findall(self._doc.text)) if self._doc.lang == "zh" else self._doc.tokens

    def __len__(self) -> int:
        return self._doc.n_units

    def __getitem__(self, at: Any) -> Any:
        return self._made[at]


_COMPILED = {
    "text_kernels": "present",
    "repetition_kernels": "repetition",
    "mapping_kernels": "marks",
    "pii_kernels": "fill",
}
"""Modules of passes, and the pass that each compiles last."""


def prepare() -> None:
    """Have all passes compiled before many processes need them: else each would, at the same time.

    Costs nothing where they are, as numba keeps them beside their module unless it may not write there.
    """
    for module, last in _COMPILED.items():
        source = Path(__file__).with_name(f"{module}.py")
        kept = source.parent.glob(f"__pycache__/{module}.{last}-*.nbi")
        if not any(index.stat().st_mtime > source.stat().st_mtime for index in kept):
            import_module(f"tokenmill.curation.{module}")


@cache
def _kernels() -> Any:
    """The compiled passes. numba takes half a second to import: not before a document is looked at."""
    from tokenmill.curation import text_kernels

    return text_kernels


@cache
def _repetition_kernels() -> Any:
    from tokenmill.curation import repetition_kernels

    return repetition_kernels


def _read(codes: "Codes", line_feeds: int) -> "tuple[tuple[int, ...], tuple[Hashes, Numbers], Table]":
    """Counts of a text, hash and length of each word without the punctuation around it, and where its lines lie."""
    known = _tables()
    counts, hashes, lengths, bounds = _kernels().read(codes, known.kinds, known.lower, line_feeds)
    return counts, (hashes, lengths), bounds


@cache
def _tables() -> "Tables":
    from tokenmill.curation.characters import tables

    return tables()


@cache
def _stop_words() -> "Hashes":
    return Document("the be to of and that have with").hashed_tokens[0]


def codes_of(text: str) -> "Codes":
    return numpy.frombuffer(text.encode("utf-32-le", "surrogatepass"), numpy.uint32)


def share(part: float, whole: float) -> float:
    """part / whole, and 0 of nothing."""
    return part / whole if whole else 0.0
