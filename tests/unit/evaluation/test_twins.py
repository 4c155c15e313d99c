"""Twins: of the tests' kind, none of them a test, and their answers right; a rewritten one keeps the answer and not the words."""

import re
from importlib.util import find_spec
from typing import Any

import pytest

from tokenmill.errors import InputError
from tokenmill.evaluation.twins import ALIKE, fault, redrawn, rewritten, shared
from tokenmill.problems import problems

generated = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="pip install --no-deps reasoning-gym")
APPLES = "A farmer picks 12 apples in the morning and 30 in the evening. How many apples does he have?"
OTHERWISE = (
    "In the evening 30 apples came off the trees; 12 more had been gathered since dawn. What is their total number?"
)


def value(question: str) -> float:
    """What reasoning-gym's basic arithmetic asks for, by Python."""
    (expression,) = re.findall(r"[-+*/() 0-9]{5,}", question)
    return float(eval(expression))  # digits and signs alone


@generated
def test_twins_are_the_tests_tasks_drawn_anew_with_right_answers() -> None:
    tests = [*problems("basic_arithmetic", 20, seed=1), *problems("gcd", 10, seed=1)]
    train = [p["question"] for p in problems("basic_arithmetic", 20, seed=500)]
    made = redrawn(tests, train, seed=490)  # its first ten are read over the train split's
    assert sorted(p["task"] for p in made) == ["basic_arithmetic"] * 20 + ["gcd"] * 10
    questions = {p["question"] for p in made}
    assert len(questions) == 30 and not questions & {*train, *(p["question"] for p in tests)}
    sums = [p for p in made if p["task"] == "basic_arithmetic"]
    assert [float(p["answer"]) for p in sums] == [value(p["question"]) for p in sums]
    assert made == redrawn(tests, train, seed=490) != redrawn(tests, train)
    by_its_own_name = [{"question": p["question"], "metadata": {"source_dataset": p["task"]}} for p in tests]
    assert redrawn(by_its_own_name, train, seed=490) == made


@generated
def test_a_task_that_has_no_more_problems_gives_fewer_twins() -> None:
    tests = [{"question": "-", "task": "gcd"}] * 4
    every = [p["question"] for p in problems("gcd", 14, seed=9)]
    assert len(redrawn(tests, every, seed=9)) == 2  # sixteen are drawn, fourteen of them are known


def test_what_no_generator_made_is_told() -> None:
    with pytest.raises(InputError, match="does not say which task of reasoning-gym it is"):
        redrawn([{"question": APPLES}], [])


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (OTHERWISE, ""),
        (APPLES, "100% of its n-grams are the question's"),
        (
            APPLES.replace("How many apples does he have?", "What is the total?"),
            "65% of its n-grams are the question's",
        ),
        (OTHERWISE.replace("12", "13"), "its numbers are others"),
        ("12 and 30?", "its length is another"),
        ("", "its numbers are others"),
    ],
)
def test_a_twin_says_the_same_in_other_words(said: str, why: str) -> None:
    assert fault(APPLES, said) == why


def test_what_is_alike_is_counted_in_words_and_in_chinese_characters() -> None:
    assert shared("a b c d e", "x a b c y d e") == pytest.approx(1 / 3)  # abc of abc, bcd, cde
    assert shared("小明有五个苹果", "小明有五个梨") == pytest.approx(1 / 3)
    assert shared("Why?", "why") == 1.0 and ALIKE == 0.5


def test_rewritten_tests_keep_their_answers_and_what_they_were_asked() -> None:
    tests = [{"problem": APPLES, "answer": 42, "level": "1"}, {"problem": APPLES, "answer": 42}]
    answers = iter([f" {OTHERWISE}\n", APPLES])
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return next(answers)

    made, rejected = rewritten(tests, ask, "writer", field="problem")
    assert [(one["problem"], one["answer"]) for one in made] == [(OTHERWISE, 42)] and made[0]["level"] == "1"
    told: dict[str, Any] = made[0]["rewritten"]
    assert told["prompt"] == asked[0] and told["prompt"].endswith(APPLES) and told["model"] == "writer"
    assert told["alike"] < ALIKE and rejected[0]["rewritten"]["rejected"].startswith("100% of its n-grams")
    with pytest.raises(InputError, match="test 1 has no field 'question' to rewrite"):
        rewritten(tests, ask, "writer")
