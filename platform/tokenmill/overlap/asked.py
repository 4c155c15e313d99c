"""What evaluation asks, and what a training record says: the texts in which and for which is looked."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tokenmill.overlap.index import OverlapIndex, suite_of
from tokenmill.overlap.rule import OverlapRule
from tokenmill.records import Record


def question_text(record: Record) -> str:
    """What would stand in a training document that holds this question. Of a written answer the wording is not known."""
    if "text" in record:
        return str(record["text"])
    if "messages" in record:
        return "\n".join(str(message["content"]) for message in record["messages"])
    if "choices" in record:
        return str(record["choices"][record["answer"]])
    return str(record["question"])


def answer_texts(record: Record) -> list[str]:
    """What a training document must hold, one of them, after the question to give its answer away."""
    if "choices" in record:
        return [str(record["choices"][record["answer"]]).removeprefix(str(record["question"])).strip()]
    answer = record.get("answer", []) if "question" in record else []
    return [str(one) for one in answer] if isinstance(answer, list) else [str(answer)]


TRAINED = ("prompt", "messages", "chosen", "rejected")
"""Fields of a conversation or preference pair that a model is trained on: a string, or messages."""


def training_text(record: Record) -> str:
    """The text of a document, a conversation or a preference pair."""
    if "text" in record:
        return str(record["text"])
    parts: list[str] = []
    for value in map(record.get, TRAINED):
        parts += [value] if isinstance(value, str) else [str(message["content"]) for message in value or ()]
    return "\n".join(parts)


def is_test(record: Record) -> bool:
    """Not a problem that a suite takes from the training split or from a reference itself."""
    return bool(record.get("split", "test") == "test")


@dataclass(frozen=True)
class Asked:
    """All that evaluation will ask: the questions by their wording, the documents whose text it reads by their ids.

    Looking for those documents' text would drop whatever is written after the same template.
    """

    index: OverlapIndex
    read: frozenset[str]
    looked_for: int
    """Questions that are long enough and have wording of their own, and documents."""

    @classmethod
    def of(cls, rule: OverlapRule, suites: Mapping[str, Iterable[Record]]) -> "Asked":
        """Of a `questions` artifact's records by shard name."""
        index, read, asked = OverlapIndex(rule), set[str](), 0
        for shard, given in suites.items():
            records, suite = list(given), shard.partition(".")[0]
            for record in filter(is_test, records):
                if "question" in record:
                    index.add(f"{suite}#{record['id']}", question_text(record))
                    asked += 1
            read |= {record["id"].partition("@")[0] for record in records if "question" not in record}
        index.build()
        return cls(index, frozenset(read), asked - len(index.unsearchable) + len(read))


def count_by_suite(names: Iterable[str]) -> Counter[str]:
    """`suite#id` names by suite."""
    return Counter(map(suite_of, names))
