"""Questions whose answers a program can check: what RLHF must not pay for its reward with.

The report's models lost instruction following to RLHF (IFEval 48.5 → 45.9 at 7B, 48.7 → 42.2 at 20B). So a fixed set is
asked before and after: whether the answer is right, and whether it keeps to a form that a program can verify, after IFEval
(Zhou et al. 2023): words that must or must not appear, a length, letter case, how it begins and ends.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenmill import answers
from tokenmill.errors import InputError
from tokenmill.records import Record

RULES: dict[str, Callable[[str, Any], bool]] = {
    "contains": lambda text, wanted: all(word in text for word in wanted),
    "excludes": lambda text, unwanted: not any(word in text for word in unwanted),
    "min_words": lambda text, least: len(text.split()) >= least,
    "max_words": lambda text, most: len(text.split()) <= most,
    "begins_with": lambda text, beginning: text.startswith(beginning),
    "ends_with": lambda text, ending: text.endswith(ending),
    "case": lambda text, case: text == (text.upper() if case == "upper" else text.lower()),
}
"""Rule → whether a text, white space around it left out, obeys it."""


@dataclass(frozen=True)
class GoldQuestion:
    """A dialogue that waits for an answer, and what is known of the right one."""

    id: str
    domain: str
    prompt: tuple[Mapping[str, Any], ...]
    answer: str
    form: Mapping[str, Any] = field(default_factory=dict)
    """Rule → its value."""

    @classmethod
    def of(cls, record: Record) -> "GoldQuestion":
        """From a record of the artifact that `collect_preferences` calls `gold`."""
        if unknown := sorted(set(record.get("form", {})) - set(RULES)):
            raise InputError(f"{record['id']}: no rule {unknown[0]!r} for an answer's form; known: {', '.join(RULES)}")
        prompt = tuple(record["messages"])
        return cls(record["id"], record.get("domain", "math"), prompt, record["answer"], record.get("form", {}))

    def is_right(self, text: str) -> bool:
        return answers.same(answers.extract(text), self.answer)

    def is_obeyed(self, text: str) -> bool:
        return all(RULES[name](text.strip(), value) for name, value in self.form.items())


@dataclass(frozen=True)
class GoldScore:
    """What a policy is worth on the gold set: a 0 or 1 for each question, so that two policies can be paired."""

    right: list[float]
    obeyed: list[float]
    """A well-formed chat turn that keeps to the question's form."""


def score(
    questions: Sequence[GoldQuestion],
    texts: Sequence[str],
    ids: Sequence[Sequence[int]],
    end: int,
    special: Collection[int],
) -> GoldScore:
    """Check every answer.

    Args:
        questions: what was asked.
        texts: what was said.
        ids: the tokens of it.
        end: the token that ends a turn.
        special: every token that stands for no text.
    """
    right, obeyed = [], []
    for question, text, tokens in zip(questions, texts, ids, strict=True):
        right.append(float(question.is_right(text)))
        obeyed.append(float(not answers.faults(tokens, text, end, special) and question.is_obeyed(text)))
    return GoldScore(right, obeyed)


def form_of(reference: str) -> dict[str, Any]:
    """Rules that a reference answer shows: how it ends, the equation it states, not more than twice its words."""
    text = reference.strip()
    form: dict[str, Any] = {"max_words": 2 * len(text.split())}
    if text.endswith((".", "!", "?")):
        form["ends_with"] = text[-1]
    if "=" in text:
        form["contains"] = ["="]
    return form
