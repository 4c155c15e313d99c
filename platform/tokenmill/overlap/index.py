"""Which questions stand, word for word, in a body of text.

A question is copied where `n` consecutive words of it occur there (13, as for GPT-3 and Llama; 30 characters in
Chinese), or all of its words if it has fewer. Wording that several questions share is their template: it makes none of
them a copy.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy

from tokenmill.overlap.rule import OverlapRule
from tokenmill.overlap.units import HAN, Units, is_chinese, units


def suite_of(name: str) -> str:
    """`generate/maths#q7` → `generate/maths`; an id may have a # of its own."""
    return name.partition("#")[0]


class Hit(NamedTuple):
    """A run of units that a question shares with a text."""

    name: str
    at: int
    """Of its first unit in the text."""
    length: int
    chinese: bool
    """Whether its units are characters."""


class Table:
    """Runs of units, sorted for the kernel by their first `anchor` units: one pass over a text finds those of any length."""

    def __init__(self, anchor: int, runs: "Runs") -> None:
        from tokenmill.overlap.kernels import mark

        order = numpy.lexsort((runs.hashes, runs.lengths, runs.anchors))
        self.anchor = anchor
        self.anchors, self.lengths, self.hashes, self.owners = (column[order] for column in runs)
        bits = max(12, (16 * len(order)).bit_length())  # of 16 bits one is set
        self.shift = numpy.uint64(64 - bits)
        self.places = numpy.zeros(1 << (bits - 6), numpy.uint64)
        mark(self.anchors, self.shift, self.places)

    def find(self, text: Units) -> Any:
        """int64 [hits, 3]: owner, place and length."""
        from tokenmill.overlap.kernels import runs

        return runs(
            text, self.anchor, self.places, self.shift, self.anchors, self.lengths, self.hashes, self.owners
        )  # fmt: skip


class Runs(NamedTuple):
    """Columns of equal length: one run of units a row."""

    anchors: Any
    """uint64: the hash of its first units."""
    lengths: Any
    """int64: how many units it has."""
    hashes: Any
    """uint64: of the whole run."""
    owners: Any
    """int64: the number of the question it is of."""

    @classmethod
    def joined(cls, parts: "list[Runs]") -> "Runs":
        if not parts:
            return cls(*(numpy.empty(0, kind) for kind in (numpy.uint64, numpy.int64, numpy.uint64, numpy.int64)))
        return cls(*map(numpy.concatenate, zip(*parts, strict=True)))

    def without_templates(self, suites: Any, max_sharing: int) -> "Runs":
        """Without the runs that more than `max_sharing` questions of one suite have; `suites`: question → its suite."""
        if not len(self.owners):
            return self
        suite = suites[self.owners]
        order = numpy.lexsort((self.owners, suite, self.hashes))
        hashes, suite, owners = self.hashes[order], suite[order], self.owners[order]
        new_pair = numpy.r_[True, (hashes[1:] != hashes[:-1]) | (suite[1:] != suite[:-1])]
        new_owner = new_pair | numpy.r_[True, owners[1:] != owners[:-1]]
        starts = numpy.flatnonzero(new_pair)
        sharing = numpy.add.reduceat(new_owner, starts, dtype=numpy.int64)
        templates = hashes[starts[sharing > max_sharing]]
        keep = ~numpy.isin(self.hashes, templates)
        return Runs(*(column[keep] for column in self))


@dataclass
class OverlapIndex:
    """The questions' n-grams. Add all of them, `build` once, then `find`."""

    config: OverlapRule
    names: list[str] = field(default_factory=list)
    too_short: set[str] = field(default_factory=set)
    """Questions with fewer than `min_words` words (twice as many characters): not looked for."""
    template_only: set[str] = field(default_factory=set)
    """Questions none of whose n-grams is their own, e.g. one that stands in its suite three times: not looked for either."""
    _runs: dict[tuple[bool, int], list[Runs]] = field(default_factory=lambda: defaultdict(list))
    _tables: dict[tuple[bool, int], Table] = field(default_factory=dict)
    """By whether units are characters, and how many of them a run is looked up by."""

    def add(self, name: str, text: str) -> None:
        """Look for a text under the name `suite#id`; several texts may have one name."""
        from tokenmill.overlap.kernels import grams

        chinese = is_chinese(text)
        found, most, least = units(text, chinese), self._most(chinese), self._least(chinese)
        n = min(most, len(found))
        if n < least:
            self.too_short.add(name)
            return
        anchor = most if n == most else least  # common beginnings of long runs would be looked at one by one
        if not self.names or self.names[-1] != name:
            self.names.append(name)
        whole = grams(found, n)
        own = numpy.full(len(whole), len(self.names) - 1, numpy.int64)
        length = numpy.full(len(whole), n, numpy.int64)
        self._runs[chinese, anchor].append(Runs(grams(found, anchor)[: len(whole)], length, whole, own))

    def run_of(self, text: str) -> tuple[bool, int]:
        """Whether a text is compared by characters, and how many units in a row are a copy of it; 0 if it is too short."""
        chinese = is_chinese(text)
        n = min(self._most(chinese), len(units(text, chinese)))
        return chinese, n if n >= self._least(chinese) else 0

    def _most(self, chinese: bool) -> int:
        return self.config.ngram_characters if chinese else self.config.ngram_words

    def _least(self, chinese: bool) -> int:
        return 2 * self.config.min_words if chinese else self.config.min_words

    def build(self) -> None:
        """Leave out the templates; call it once, when every question is in."""
        numbers: dict[str, int] = {}
        suites = numpy.array([numbers.setdefault(suite_of(name), len(numbers)) for name in self.names], numpy.uint64)
        self.template_only = set(self.names)
        for (chinese, anchor), parts in self._runs.items():
            runs = Runs.joined(parts).without_templates(suites, self.config.max_sharing)
            if len(runs.owners):
                self._tables[chinese, anchor] = Table(anchor, runs)
                self.template_only -= {self.names[owner] for owner in numpy.unique(runs.owners).tolist()}
        self._runs.clear()

    @property
    def unsearchable(self) -> set[str]:
        """Questions of which no text can be looked for."""
        return self.template_only | (self.too_short - set(self.names))

    @property
    def size(self) -> int:
        """N-grams that are looked for."""
        return sum(len(table.owners) for table in self._tables.values())

    def find(self, text: str) -> set[str]:
        """Names of the questions that this text holds."""
        return {hit.name for hit in self.hits(text)}

    def hits(self, text: str) -> Iterator[Hit]:
        """Every run of a question that this text holds, by where it stands."""
        read: dict[bool, Units] = {}
        for (chinese, _), table in self._tables.items():
            if not chinese or (not text.isascii() and HAN.search(text)):
                if chinese not in read:
                    read[chinese] = units(text, chinese)
                for owner, at, length in table.find(read[chinese]).tolist():
                    yield Hit(self.names[owner], at, length, chinese)
