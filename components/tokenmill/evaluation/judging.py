"""Answers that no program can grade, graded by another model: a rating of each, or the better of it and a baseline's.

The judge stands behind an endpoint, is greedy, and is named in the evaluation's identity; where it stands is not.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tokenmill.errors import InputError, UserError
from tokenmill.evaluation.config import EvaluateConfig
from tokenmill.judge import Ask, Endpoint, compare, rate
from tokenmill.records import Record

HIGHEST = 10
"""Of a rating (`tokenmill.judge.RATE`)."""
WORTH = {"first": 1.0, "tie": 0.5, "second": 0.0}
Grade = Callable[[Sequence[Record], Sequence[str]], list[dict[str, Any]]]


def wanted(records: Sequence[Record]) -> bool:
    """Whether a judge grades the suite; all its questions name one metric."""
    return bool(records) and records[0].get("metric") == "judge"


def judge_of(config: EvaluateConfig) -> Grade:
    """What grades questions and their answers. Raises InputError where no judge is given, before any answer is written."""
    how = config.execution.judge
    if not (config.judge.model and how.url):
        raise InputError(
            "a judge grades this suite: name it, evaluation.evaluate.judge.model, and say where it is, "
            "evaluation.evaluate.execution.judge.url"
        )
    judge = Endpoint.at(config.judge.model, config.judge.max_tokens, how)

    def grade(records: Sequence[Record], said: Sequence[str]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(how.concurrency) as pool:
            graded = list(pool.map(lambda record, text: _graded(record, text, judge), records, said))
        silent = sum(one["score"] is None for one in graded)
        if silent > config.judge.max_ungraded * len(graded):
            example = next(one for one in graded if one["score"] is None)["judge"][-1]
            raise UserError(
                f"the judge {config.judge.model} gave no verdict on {silent} of {len(graded)} answers, more than the share "
                f"evaluation.evaluate.judge.max_ungraded={config.judge.max_ungraded:g}; it said {example[-80:]!r}"
            )
        return graded

    return grade


def _graded(record: Record, said: str, judge: Ask) -> dict[str, Any]:
    """Score, 0 to 1, rating or verdict, and what the judge said; None where it gave none, which is no answer's fault."""
    heard: list[str] = []

    def ask(prompt: str) -> str:
        heard.append(judge(prompt))
        return heard[-1]

    if "baseline" in record:
        verdict = compare(record["question"], said, record["baseline"], ask)
        return {"verdict": verdict, "judge": heard, "score": None if verdict is None else WORTH[verdict]}
    rating = rate(record["question"], said, ask)
    return {"rating": rating, "judge": heard, "score": None if rating is None else rating / HIGHEST}
