"""Twins of a benchmark's problems, beside which its contamination is measured (report §5.4): as hard as the test to a model
that has not seen it, and new to one that has.

Of a generated problem it is the same task with other numbers and names, whose answer the generator knows. Of any other it is
the same problem in other words, by a model behind an endpoint; the report had GPT-4 write its reference set.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy

from tokenmill.errors import InputError
from tokenmill.judge import Ask
from tokenmill.overlap.near import NGRAM
from tokenmill.overlap.units import is_chinese, units
from tokenmill.problems import problems
from tokenmill.records import Record

SEED = 1_000_003
"""Of a draw of twins: far from the small seeds that data sets are drawn with."""
REWRITE = """Rewrite this problem in other words and in its own language, with another order of what it tells where that is
possible. Keep every number, and what is asked, so that its answer stays the same. Say the rewritten problem and nothing else.

{question}"""
"""Ours: the report does not publish its prompt."""
ALIKE = 0.5
"""Highest share of a problem's n-grams (3 words, 5 Chinese characters) in its twin: where the contamination check begins to
call a passage `near`."""
TRIES = 4
"""Problems that are drawn for each twin: of a small task many are the test's own."""
TOGETHER = 16
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


class Twins(NamedTuple):
    made: list[Record]
    rejected: list[Record]
    """What a model said that is no twin, and why."""


def redrawn(tests: Sequence[Record], known: Iterable[str], seed: int = SEED) -> list[Record]:
    """As many problems of every task as `tests` has, none of which is a test or in `known`; fewer where a task has no more.

    Raises:
        InputError: a test does not say its task (`task`, or reasoning-gym's own `metadata.source_dataset`).
    """
    counts = Counter(map(_task, tests))
    seen = {*known, *(str(test.get("question")) for test in tests)}
    twins: list[Record] = []
    for task, count in sorted(counts.items()):
        found = {p["question"]: p for p in problems(task, TRIES * count, seed) if p["question"] not in seen}
        twins += [{"id": f"{task}-{number:05d}"} | p for number, p in enumerate(list(found.values())[:count])]
    return twins


def _task(record: Record) -> str:
    metadata = record.get("metadata")
    task = record.get("task") or (metadata.get("source_dataset") if isinstance(metadata, dict) else None)
    if not task:
        raise InputError(
            "a test does not say which task of reasoning-gym it is (field `task`), so it cannot be drawn again: give "
            "--endpoint and --model, to have the tests rewritten"
        )
    return str(task)


def rewritten(tests: Sequence[Record], ask: Ask, model: str, field: str = "question", alike: float = ALIKE) -> Twins:
    """Each test in other words, with all else that it has; under `rewritten` the prompt, the model, and how much is alike."""
    if lacking := [number for number, test in enumerate(tests, 1) if not str(test.get(field, "")).strip()]:
        raise InputError(f"test {lacking[0]} has no field {field!r} to rewrite")
    prompts = [REWRITE.format(question=test[field]) for test in tests]
    with ThreadPoolExecutor(TOGETHER) as pool:
        answers = list(pool.map(ask, prompts))
    twins = Twins([], [])
    for test, prompt, answer in zip(tests, prompts, answers, strict=True):
        said, was = answer.strip(), str(test[field])
        told = {"prompt": prompt, "model": model, "alike": round(shared(was, said), 4)}
        if why := fault(was, said, alike):
            twins.rejected.append(test | {field: said, "rewritten": told | {"rejected": why}})
        else:
            twins.made.append(test | {field: said, "rewritten": told})
    return twins


def fault(question: str, said: str, alike: float = ALIKE) -> str:
    """Why what was said is no twin of the question; empty where it is one."""
    if _numbers(question) != _numbers(said):
        return "its numbers are others"
    if not 0.5 <= len(said) / len(question) <= 2:
        return "its length is another"
    if (found := shared(question, said)) > alike:
        return f"{found:.0%} of its n-grams are the question's"
    return ""


def _numbers(text: str) -> Counter[str]:
    return Counter(_NUMBER.findall(text))


def shared(question: str, said: str) -> float:
    """Share of a question's n-grams that stand in what was said; 1 of the same words, however few they are."""
    from tokenmill.overlap.kernels import grams

    chinese = is_chinese(question)
    own, other = (units(text, chinese) for text in (question, said))
    n = min(NGRAM[chinese], max(1, len(own)))
    wanted = numpy.unique(grams(own, n))
    return float(numpy.isin(wanted, grams(other, n)).mean()) if len(wanted) else 1.0
