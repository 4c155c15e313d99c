"""Which questions stand, word for word, in a body of text.

A question is copied where `n` consecutive words of it occur there (13, as for GPT-3 and Llama; 30 characters in
Chinese), or all of its words if it has fewer. Wording that several questions share is their template: it makes none of
them a copy.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np
from pydantic import Field

from tokenmill.config import Section, StepConfig
from tokenmill.records import Record

_WORD = re.compile(r"\w+|[-+*/=<>^%×÷]")
_HAN = re.compile(r"[㐀-鿿\uf900-\ufaff]")
Gram = tuple[str, ...]


def question_text(record: Record) -> str:
    """What would stand in a training document that holds this question. Of an answer the wording is not known."""
    if "text" in record:
        return str(record["text"])
    if "messages" in record:
        return "\n".join(str(message["content"]) for message in record["messages"])
    if "choices" in record:
        return str(record["choices"][record["answer"]])
    return str(record["question"])


def is_chinese(text: str) -> bool:
    return len(_HAN.findall(text)) > 0.3 * len(text)


def units(text: str, chinese: bool) -> Sequence[str]:
    """Lower-cased words and the signs of arithmetic, or in Chinese characters; punctuation does not count."""
    words = _ascii_words(text.lower()) if text.isascii() else _WORD.findall(text.lower())
    return "".join(words) if chinese else words


_SIGNS = "-+*/=<>^%"
_BETWEEN = str.maketrans({c: " " for c in map(chr, range(128)) if not (c.isalnum() or c in _SIGNS or c == "_")})


def _ascii_words(text: str) -> list[str]:
    """What `_WORD` finds in ASCII, 2.5 times as fast."""
    text = text.translate(_BETWEEN)
    for sign in _SIGNS:
        if sign in text:
            text = text.replace(sign, f" {sign} ")
    return text.split()


class Sieve:
    """Where in a text one of many runs of `n` units may begin: all places where one does, and a few more.

    The units become numbers, every run of them one sum, and a table says which sums occur: a look-up a word in compiled
    code, in the place of a tuple and a dictionary a word in Python.
    """

    def __init__(self, runs: Sequence[Gram], n: int) -> None:
        self._n = n
        self._factors = [_factor(i) for i in range(n)]
        self._numbers = {unit: number for number, unit in enumerate(sorted({u for run in runs for u in run}), 1)}
        self._shift = np.uint64(64 - max(12, (32 * len(runs)).bit_length()))  # of 32 places at least one is taken
        self._table = np.zeros(1 << (64 - int(self._shift)), dtype=bool)
        ids = np.array([[self._numbers[unit] for unit in run] for run in runs], dtype=np.uint64).reshape(-1, n)
        self._table[self._places([ids[:, i] for i in range(n)])] = True

    def starts(self, units: Sequence[str]) -> list[int]:
        """Indices at which a run may begin, ascending."""
        if (windows := len(units) - self._n + 1) < 1:
            return []
        ids = np.fromiter(map(self._numbers.get, units, repeat(0)), np.uint64, len(units))
        places = self._places([ids[i : i + windows] for i in range(self._n)])
        return np.flatnonzero(self._table[places]).tolist()

    def _places(self, columns: Sequence[np.ndarray[Any, np.dtype[np.uint64]]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """A sum modulo 2⁶⁴, each column with an odd factor of its own, by its highest bits."""
        total = columns[0] * self._factors[0]
        for column, factor in zip(columns[1:], self._factors[1:], strict=True):
            total += column * factor
        return total >> self._shift


def _factor(column: int) -> np.uint64:
    """Powers of a number whose multiples spread well over 64 bits (2⁶⁴ by the golden ratio)."""
    return np.uint64(pow(0x9E3779B97F4A7C15, column + 1, 1 << 64))


class OverlapRule(Section):
    """What counts as a copy."""

    ngram_words: int = Field(
        13, ge=2, description="consecutive words that count as a copy (13-grams, as GPT-3's and Llama's)"
    )
    ngram_characters: int = Field(30, ge=5, description="consecutive characters that count as a copy, in Chinese")
    min_words: int = Field(5, ge=2, description="shorter questions are common speech and cannot be called copied")
    max_sharing: int = Field(
        2, ge=1, description="an n-gram that more questions share is their template, and nobody's copy"
    )

    def weaknesses(self, other: "OverlapRule") -> list[str]:
        """The fields in which `other` calls fewer things a copy than this rule does."""
        larger_is_weaker = ("ngram_words", "ngram_characters", "min_words")
        found = [name for name in larger_is_weaker if getattr(other, name) > getattr(self, name)]
        return found + (["max_sharing"] if other.max_sharing < self.max_sharing else [])


class OverlapConfig(OverlapRule, StepConfig):
    """The rule as a step's options."""


@dataclass
class OverlapIndex:
    """The questions' n-grams, looked up by their first words: one pass over a text finds those of any length."""

    config: OverlapRule
    _anchors: tuple[dict[Gram, list[tuple[Gram, str]]], ...] = field(default_factory=lambda: ({}, {}))
    _sieves: list[Sieve] = field(default_factory=list)
    _owners: dict[bool, dict[Gram, set[str]]] = field(default_factory=lambda: {False: {}, True: {}})
    too_short: set[str] = field(default_factory=set)
    """Questions with fewer than `min_words` words (twice as many characters): not looked for."""

    def add_suite(self, suite: str, records: Iterable[Record]) -> int:
        """Add what a suite asks, as `suite#id`, except what it takes from the training split itself; how much that is."""
        asked = [record for record in records if record.get("split", "test") == "test"]
        for record in asked:
            self.add(f"{suite}#{record['id']}", question_text(record))
        return len(asked)

    def add(self, name: str, text: str) -> None:
        chinese = is_chinese(text)
        found = units(text, chinese)
        n = min(self.config.ngram_characters if chinese else self.config.ngram_words, len(found))
        if n < self._anchor(chinese):
            self.too_short.add(name)
            return
        for gram in _grams(found, n):
            self._owners[chinese].setdefault(gram, set()).add(name)

    def _anchor(self, chinese: bool) -> int:
        return 2 * self.config.min_words if chinese else self.config.min_words

    def build(self) -> None:
        """Leave out the templates; call it once, when every question is in."""
        for chinese in (False, True):
            anchored: defaultdict[Gram, list[tuple[Gram, str]]] = defaultdict(list)
            for gram, owners in self._owners[chinese].items():
                if max(count_by_suite(owners).values()) <= self.config.max_sharing:
                    anchored[gram[: self._anchor(chinese)]] += [(gram, owner) for owner in owners]
            self._anchors[chinese].update(anchored)
            self._sieves.append(Sieve(list(anchored), self._anchor(chinese)))

    def find(self, text: str) -> set[str]:
        """Names of the questions that this text holds."""
        hits = self._find(text, chinese=False)
        return hits if text.isascii() or not _HAN.search(text) else hits | self._find(text, chinese=True)

    def _find(self, text: str, chinese: bool) -> set[str]:
        anchors, hits = self._anchors[chinese], set[str]()
        if not anchors:
            return hits
        found, length = units(text, chinese), self._anchor(chinese)
        for start in self._sieves[chinese].starts(found):
            for gram, owner in anchors.get(tuple(found[start : start + length]), ()):
                if tuple(found[start : start + len(gram)]) == gram:
                    hits.add(owner)
        return hits


@dataclass(frozen=True)
class Asked:
    """All that evaluation will ask: the questions by their wording, the documents whose text it reads by their ids.

    Looking for those documents' text would drop whatever is written after the same template.
    """

    index: OverlapIndex
    read: frozenset[str]
    looked_for: int
    """Questions that are long enough, and documents."""

    @classmethod
    def of(cls, rule: OverlapRule, suites: Mapping[str, Iterable[Record]]) -> "Asked":
        """Of a `questions` artifact's records by shard name."""
        index, read, asked = OverlapIndex(rule), set[str](), 0
        for shard, given in suites.items():
            records = list(given)
            asked += index.add_suite(shard.partition(".")[0], (record for record in records if "question" in record))
            read |= {record["id"].partition("@")[0] for record in records if "question" not in record}
        index.build()
        return cls(index, frozenset(read), asked - len(index.too_short) + len(read))


def _grams(words: Sequence[str], n: int) -> Iterable[Gram]:
    return zip(*(words[i:] for i in range(n)), strict=False)


def count_by_suite(names: Iterable[str]) -> Counter[str]:
    """`suite#id` names by suite."""
    return Counter(name.rpartition("#")[0] for name in names)
