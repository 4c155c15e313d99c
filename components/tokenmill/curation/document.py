"""What rules and grades look at: a document's words, lines and shares, each computed once and only when asked for.

The statistics come from compiled passes (`text_kernels`) over the text's code points: one that counts characters and
words, one a kind of part (lines, paragraphs), one over the hashes of the words. A rule that needs none starts none.
"""

import re
from collections.abc import Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # numba takes half a second to import: not before a document is looked at
    from tokenmill.curation.text_kernels import Codes, Counts, Hashes, Lines, Numbers, Repetition

_WORD = re.compile(r"\S+")
_EDGE = "\"'“”‘’.,;:!?()[]{}<>*_#`~-—…"
_LONGEST_GRAM = 10


class Document:
    """A text with a language and the statistics of both; `units` are words, in Chinese characters."""

    def __init__(self, text: str, lang: str = "en") -> None:
        self.text = text
        self.lang = lang

    # --- characters and words ---

    @cached_property
    def codes(self) -> "Codes":
        return _codes(self.text)

    @cached_property
    def counts(self) -> "Counts":
        from tokenmill.curation.characters import tables
        from tokenmill.curation.text_kernels import count

        known = tables()
        return count(self.codes, known.kinds, known.lower)

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

    @cached_property
    def line_table(self) -> "Lines":
        return self._parts(line_feeds=1)

    @cached_property
    def paragraph_table(self) -> "Lines":
        return self._parts(line_feeds=2)

    @cached_property
    def lines(self) -> list[str]:
        return self._texts(self.line_table)

    @cached_property
    def paragraphs(self) -> list[str]:
        return self._texts(self.paragraph_table)

    @cached_property
    def line_lengths(self) -> "Numbers":
        return self.line_table.ends - self.line_table.starts

    @cached_property
    def repeated_lines(self) -> tuple[float, float]:
        """(share of lines that repeat an earlier one, share of the lines' characters in them)."""
        return _repeated(self.line_table)

    @cached_property
    def repeated_paragraphs(self) -> tuple[float, float]:
        return _repeated(self.paragraph_table)

    def repeated(self, parts: list[str]) -> tuple[float, float]:
        """The same of any parts."""
        if parts is self.lines:
            return self.repeated_lines
        seen: set[str] = set()
        again = [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
        return share(len(again), len(parts)), share(sum(map(len, again)), sum(map(len, parts)))

    @property
    def bullet_lines(self) -> float:
        """Share of lines that start with a bullet."""
        from tokenmill.curation.text_kernels import BULLET

        return self._lines_marked(BULLET)

    @property
    def ellipsis_lines(self) -> float:
        """Share of lines that end with an ellipsis."""
        from tokenmill.curation.text_kernels import ELLIPSIS

        return self._lines_marked(ELLIPSIS)

    @property
    def terminal_lines(self) -> float:
        """Share of lines that end with a terminal punctuation mark."""
        from tokenmill.curation.text_kernels import TERMINAL

        return self._lines_marked(TERMINAL)

    def lines_below(self, words: int) -> float:
        """Share of lines of fewer than `words` words."""
        return share(int((self.line_table.words < words).sum()), len(self.line_table.words))

    def _lines_marked(self, mark: int) -> float:
        marks = self.line_table.marks
        return share(int(((marks & mark) != 0).sum()), len(marks))

    def _parts(self, line_feeds: int) -> "Lines":
        from tokenmill.curation.characters import tables
        from tokenmill.curation.text_kernels import lines

        return lines(self.codes, tables().kinds, line_feeds)

    def _texts(self, parts: "Lines") -> list[str]:
        return [self.text[start:end] for start, end in zip(parts.starts.tolist(), parts.ends.tolist(), strict=True)]

    # --- units: distinct ones, and sequences of them that repeat ---

    @cached_property
    def tokens(self) -> list[str]:
        """Lower-cased words without the punctuation around them."""
        stripped = (word.strip(_EDGE).lower() for word in _WORD.findall(self.text))
        return [token for token in stripped if token]

    @property
    def units(self) -> Sequence[str]:
        return "".join(_WORD.findall(self.text)) if self.lang == "zh" else self.tokens

    @cached_property
    def hashed_units(self) -> "tuple[Hashes, Numbers]":
        """Hash and length of each unit."""
        if self.lang == "zh":
            import numpy

            from tokenmill.curation.characters import tables
            from tokenmill.curation.text_kernels import WHITE

            inked = self.codes[(tables().kinds[self.codes] & WHITE) == 0]
            return inked.astype(numpy.uint64), numpy.ones(len(inked), numpy.int64)
        return self.hashed_tokens

    @cached_property
    def hashed_tokens(self) -> "tuple[Hashes, Numbers]":
        from tokenmill.curation.characters import tables
        from tokenmill.curation.text_kernels import tokens

        # Σ and İ have a lower case that no table by character gives: Python writes such a document's tokens out
        codes = _codes(" ".join(self.tokens)) if self.counts.cased_twice else self.codes
        return tokens(codes, tables().kinds, tables().lower, self.counts.tokens)

    @property
    def n_stop_words(self) -> int:
        """Different ones of Gopher's eight English stop words."""
        return sum(bool((self.hashed_tokens[0] == one).any()) for one in _stop_words())

    @cached_property
    def n_unit_characters(self) -> int:
        return int(self.hashed_units[1].sum())

    @property
    def unique_share(self) -> float:
        return share(int(self._repetition(1).distinct[1]), self.n_units)

    def top_ngram_share(self, n: int) -> float:
        """Share of characters in the occurrences of the most frequent n-gram (0 if nothing occurs twice).

        Among equally frequent n-grams it is the longest, so that the answer does not hang on the order of words.
        """
        return share(int(self._repetition(n).top[n]), self.n_unit_characters)

    def duplicate_ngram_share(self, n: int) -> float:
        """Share of characters that lie in an n-gram seen before, no character counted twice (Gopher, A.1)."""
        return share(int(self._repetition(n).duplicate[n]), self.n_unit_characters)

    def _repetition(self, n: int) -> "Repetition":
        if self._repetitions is None or len(self._repetitions.top) <= n:
            from tokenmill.curation.text_kernels import repetition

            self._repetitions = repetition(*self.hashed_units, max(n, 1 if n == 1 else _LONGEST_GRAM))
        return self._repetitions

    _repetitions: "Repetition | None" = None


@cache
def _stop_words() -> tuple[int, ...]:
    return tuple(Document("the be to of and that have with").hashed_tokens[0])


def _codes(text: str) -> "Codes":
    import numpy

    return numpy.frombuffer(text.encode("utf-32-le", "surrogatepass"), numpy.uint32)


def _repeated(parts: "Lines") -> tuple[float, float]:
    from tokenmill.curation.text_kernels import repetition

    lengths = parts.ends - parts.starts
    found = repetition(parts.hashes, lengths, 1)
    again = len(lengths) - int(found.distinct[1])
    return share(again, len(lengths)), share(int(found.duplicate[1]), int(lengths.sum()))


def share(part: float, whole: float) -> float:
    """part / whole, and 0 of nothing."""
    return part / whole if whole else 0.0
