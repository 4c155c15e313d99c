"""Which questions stand, reworded, in a body of text: a passage that says most of one in its own words and has its numbers.

A question is near where a passage of at most twice its length holds a share of its n-grams (three words, five characters in
Chinese) and every number of it. N-grams that several questions share are their template, as in `index`: a problem that was
made from the same template with other numbers, as a reference set is, is no copy. A paraphrase that leaves no three words
together is not found here; Δ1 may show it.
"""

import re
from typing import Any

import numpy
from pydantic import Field

from tokenmill.config import Section
from tokenmill.overlap.index import Runs, suite_of
from tokenmill.overlap.units import HAN, Units, is_chinese, units

NGRAM = {False: 3, True: 5}
_NUMBER = {False: re.compile(r"(?<!\w)\d+(?!\w)"), True: re.compile(r"\d")}


class NearRule(Section):
    """What counts as reworded."""

    share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="of a question's n-grams (3 words, 5 Chinese characters) in one passage; not published",
    )
    min_ngrams: int = Field(
        8, ge=2, description="n-grams of its own that a question must have: of fewer, half occur by chance"
    )


class _Language:
    """The questions of one way to count units."""

    def __init__(self, rule: NearRule, chinese: bool) -> None:
        self.rule, self.n = rule, NGRAM[chinese]
        self.names: list[str] = []
        self.lengths: list[int] = []
        self.numbers: list[Units] = []
        self.grams: list[Units] = []

    def add(self, name: str, found: Units, numbers: Units) -> None:
        from tokenmill.overlap.kernels import grams

        self.names.append(name)
        self.lengths.append(len(found))
        self.numbers.append(numbers)
        self.grams.append(numpy.unique(grams(found, self.n)))

    def build(self, suites: Any, max_sharing: int) -> None:
        """Leave out the templates, and the questions of which too little is left."""
        from tokenmill.overlap.kernels import mark

        owners = numpy.repeat(numpy.arange(len(self.grams)), list(map(len, self.grams)))
        keys = numpy.concatenate(self.grams) if self.grams else numpy.empty(0, numpy.uint64)
        runs = Runs(keys, owners, keys, owners).without_templates(suites, max_sharing)
        own = numpy.bincount(runs.owners, minlength=len(self.grams))
        keep = own[runs.owners] >= self.rule.min_ngrams
        order = numpy.argsort(runs.hashes[keep], kind="stable")
        self.keys, self.owners = runs.hashes[keep][order], runs.owners[keep][order]
        self.wanted = numpy.maximum(1, numpy.ceil(self.rule.share * own - 1e-9)).astype(numpy.int64)
        self.windows = 2 * numpy.array(self.lengths, numpy.int64)
        bits = max(12, (16 * len(self.keys)).bit_length())
        self.shift, self.places = numpy.uint64(64 - bits), numpy.zeros(1 << (bits - 6), numpy.uint64)
        mark(self.keys, self.shift, self.places)
        self._count = numpy.zeros(len(self.windows), numpy.int64)
        self._last = numpy.full(len(self.windows), -(1 << 40), numpy.int64)
        self._start = 0
        self.own: dict[int, set[int]] = {}
        for owner, key in zip(self.owners.tolist(), self.keys.tolist(), strict=True):
            self.own.setdefault(owner, set()).add(key)

    def find(self, text: Units) -> set[str]:
        from tokenmill.overlap.kernels import gatherings, grams

        found = grams(text, self.n)
        table = (self.places, self.shift, self.keys, self.owners, self.windows, self.wanted)
        places = gatherings(found, *table, self._start, self._count, self._last)
        self._start += len(found) + int(self.windows.max())
        return {self.names[owner] for owner, at in places.tolist() if self._holds(text, found, owner, at)}

    def _holds(self, text: Units, found: Units, owner: int, at: int) -> bool:
        """Whether one passage around a place holds enough different n-grams of a question, and its numbers."""
        window, own = int(self.windows[owner]), self.own[owner]
        start = max(0, at - window)
        hits = [(start + i, gram) for i, gram in enumerate(found[start : at + window].tolist()) if gram in own]
        for number, (first, _) in enumerate(hits):
            inside = {gram for place, gram in hits[number:] if place - first < window}
            if len(inside) >= self.wanted[owner]:
                passage = text[max(0, first - window // 2) : first + window]
                if not len(numpy.setdiff1d(self.numbers[owner], passage)):
                    return True
        return False


class NearIndex:
    """The questions' own n-grams. Add all of them, `build` once, then `find`."""

    def __init__(self, rule: NearRule, max_sharing: int) -> None:
        self._max_sharing = max_sharing
        self._languages = {chinese: _Language(rule, chinese) for chinese in (False, True)}

    def add(self, name: str, text: str) -> None:
        """Look for a text under the name `suite#id`."""
        chinese = is_chinese(text)
        found = units(text, chinese)
        numbers = numpy.unique(units(" ".join(_NUMBER[chinese].findall(text)), chinese))
        self._languages[chinese].add(name, found, numbers)

    def build(self) -> None:
        for language in self._languages.values():
            numbers: dict[str, int] = {}
            suites = numpy.array(
                [numbers.setdefault(suite_of(name), len(numbers)) for name in language.names], numpy.uint64
            )
            language.build(suites, self._max_sharing)

    def own(self) -> dict[str, tuple[Units, int]]:
        """Question → its own n-grams, and how many of them a paraphrase holds."""
        return {
            language.names[owner]: (numpy.array(sorted(grams), numpy.uint64), int(language.wanted[owner]))
            for language in self._languages.values()
            for owner, grams in language.own.items()
        }

    @property
    def looked_for(self) -> set[str]:
        """Names of the questions that have enough n-grams of their own."""
        return {language.names[owner] for language in self._languages.values() for owner in language.own}

    def find(self, text: str) -> set[str]:
        """Names of the questions that a passage of this text says in other words (or in the same)."""
        hits = set[str]()
        for chinese, language in self._languages.items():
            if language.own and (not chinese or (not text.isascii() and HAN.search(text))):
                hits |= language.find(units(text, chinese))
        return hits
