"""Two rule sets compared on documents: which change sides, and by which rule."""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from tokenmill.curation.rules import RuleSet, Verdict
from tokenmill.errors import InputError

EXCERPT = 120


@dataclass(frozen=True)
class Decision:
    """What a rule set did with a document: dropped it by `rule`, or kept it (then all is empty)."""

    rule: str = ""
    value: float | None = None
    threshold: str = ""

    @classmethod
    def of(cls, failure: tuple[str, Verdict] | None) -> "Decision":
        return cls(failure[0], failure[1].value, failure[1].threshold) if failure else cls()

    def __str__(self) -> str:
        return f"{self.rule} {self.value:g} (allowed {self.threshold})" if self.rule else "kept"


@dataclass(frozen=True)
class Change:
    """A document on which the two disagree."""

    id: str
    before: Decision
    after: Decision
    excerpt: str


@dataclass
class RuleDiff:
    """The documents that two rule sets, a and b, were compared on, by what became of them."""

    a: str
    b: str
    compared: int = 0
    kept_by_both: int = 0
    dropped_by_both: int = 0
    texts_differ: int = 0
    """Of those that both keep: the normalisers leave them with different texts."""
    changes: list[Change] = field(default_factory=list)

    @property
    def reasons(self) -> dict[str, dict[str, int]]:
        """How many each rule of one set drops that the other set keeps."""
        gone, back = Counter[str](), Counter[str]()
        for change in self.changes:
            if change.after.rule:
                gone[change.after.rule] += 1
            else:
                back[change.before.rule] += 1
        return {f"only {self.b} drops": dict(gone.most_common()), f"only {self.a} drops": dict(back.most_common())}

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"reasons": self.reasons}


def diff_rules(a: RuleSet, b: RuleSet, documents: Iterable[Mapping[str, Any]]) -> RuleDiff:
    """Apply both sets to each document (a record with `id` and `text`); what changes sides is listed in their order."""
    found = RuleDiff(a.name, b.name)
    for document in documents:
        before_text, after_text = a.normalise(document["text"]), b.normalise(document["text"])
        before, after = Decision.of(a.failure(before_text)), Decision.of(b.failure(after_text))
        found.compared += 1
        if bool(before.rule) != bool(after.rule):
            excerpt = " ".join(document["text"][: 2 * EXCERPT].split())[:EXCERPT]
            found.changes.append(Change(document["id"], before, after, excerpt))
        elif before.rule:
            found.dropped_by_both += 1
        else:
            found.kept_by_both += 1
            found.texts_differ += before_text != after_text
    return found


def sample(documents: Iterable[Mapping[str, Any]], size: int) -> list[Mapping[str, Any]]:
    """The `size` documents whose ids hash lowest, by id: the same ones whatever the order of the shards.

    Holds no more than `size` documents.

    Raises:
        InputError: there is no document to take.
    """
    lowest = heapq.nsmallest(size, documents, key=lambda document: sha256(document["id"].encode()).digest())
    if not lowest:
        raise InputError("the corpus has no document of that type and language")
    return sorted(lowest, key=lambda document: document["id"])
