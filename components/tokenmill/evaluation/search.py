"""What one training document gives away of what evaluation asks."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy
from numpy.lib.stride_tricks import sliding_window_view

from tokenmill.evaluation.config import ContaminationConfig
from tokenmill.overlap import OverlapIndex, answer_texts, question_text
from tokenmill.overlap.index import Hit
from tokenmill.overlap.near import NGRAM, NearIndex
from tokenmill.overlap.sketch import Probes
from tokenmill.overlap.units import Units, is_chinese, units
from tokenmill.records import Record

LABELS = ("clean", "near", "input", "input+label")
"""Of a question, the worse the further behind."""


class Search:
    """All questions, and one look at a text for all of them. Add them, `build` once, then `find`."""

    def __init__(self, config: ContaminationConfig) -> None:
        self.label_words = config.label_words
        self._verbatim = OverlapIndex(config)
        self._near = NearIndex(config.near, config.max_sharing)
        self._texts: dict[str, str] = {}
        self._answers: dict[str, list[tuple[Units, int]]] = {}
        """Name → units of its right answers, and how many of them the text that is looked for ends with."""

    def add(self, suite: str, record: Record) -> None:
        name, text = f"{suite}#{record['id']}", question_text(record)
        self._verbatim.add(name, text)
        self._near.add(name, text)
        self._texts[name] = text
        found = [units(answer, is_chinese(text)) for answer in answer_texts(record)]
        self._answers[name] = [(one, len(one) if "choices" in record else 0) for one in found if len(one)]

    def build(self) -> None:
        self._verbatim.build()
        self._near.build()
        self.probes = Probes.of(self._probes())

    def _probes(self) -> Iterator[tuple[Units, int, Units, int]]:
        """What a sketch is asked for each question: a superset of what `find` finds."""
        from tokenmill.overlap.kernels import grams

        nothing, own = numpy.empty(0, numpy.uint64), self._near.own()
        for name, text in self._texts.items():
            chinese, run = self._verbatim.run_of(text)
            ngram = NGRAM[chinese]
            yield grams(units(text, chinese), ngram), max(0, run - ngram + 1), *own.get(name, (nothing, 0))

    @property
    def unsearchable(self) -> dict[str, str]:
        """Questions that cannot be looked for, and why."""
        reasons = {"too_short": self._verbatim.too_short, "template_only": self._verbatim.template_only}
        return {name: reason for reason, names in reasons.items() for name in names}

    @property
    def near_for(self) -> set[str]:
        return self._near.looked_for

    def find(self, text: str) -> dict[str, str]:
        """Name → label of the questions that are not clean of this text."""
        found = dict.fromkeys(self._near.find(text), "near")
        copies: dict[str, list[Hit]] = defaultdict(list)
        for hit in self._verbatim.hits(text):
            copies[hit.name].append(hit)
        for name, hits in copies.items():
            found[name] = "input+label" if self._gives_answer(name, hits, text) else "input"
        return found

    def _gives_answer(self, name: str, hits: Iterable[Hit], text: str) -> bool:
        """Whether an answer follows a copy of the question within `label_words` units."""
        read: dict[bool, Units] = {}
        for chinese, end in _ends(hits):
            if chinese not in read:
                read[chinese] = units(text, chinese)
            for answer, inside in self._answers[name]:
                passage = read[chinese][max(0, end - inside) : end + self.label_words + len(answer)]
                if _holds(passage, answer):
                    return True
        return False


def _holds(passage: Units, answer: Units) -> bool:
    if len(passage) < len(answer):
        return False
    return bool(numpy.any(numpy.all(sliding_window_view(passage, len(answer)) == answer, axis=1)))


def _ends(hits: Iterable[Hit]) -> Iterator[tuple[bool, int]]:
    """Where copies end: runs that overlap are one copy."""
    ordered = sorted(hits, key=lambda hit: (hit.chinese, hit.at))
    for hit, following in zip(ordered, [*ordered[1:], None], strict=True):
        end = hit.at + hit.length
        if following is None or following.chinese != hit.chinese or following.at > end:
            yield hit.chinese, end
