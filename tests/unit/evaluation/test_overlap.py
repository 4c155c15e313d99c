"""Which questions are found in which texts."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.overlap import OverlapConfig, OverlapIndex
from tokenmill.overlap.kernels import grams
from tokenmill.overlap.units import units

SENTENCE = "Mary went to the market on a rainy day and bought seven green apples for her three brothers"


def index(**questions: str) -> OverlapIndex:
    made = OverlapIndex(OverlapConfig())
    for name, text in questions.items():
        made.add(f"suite#{name}", text)
    made.build()
    return made


def test_thirteen_words_in_a_row_are_a_copy_whatever_stands_around_them() -> None:
    words = SENTENCE.split()
    found = index(q=SENTENCE).find("He said: " + " ".join(words[2:15]).upper() + "! And left.")
    assert found == {"suite#q"}


def test_twelve_words_in_a_row_are_none() -> None:
    words = SENTENCE.split()
    assert index(q=SENTENCE).find(" ".join(words[2:14]) + " indeed") == set()


def test_a_short_question_must_stand_there_whole() -> None:
    short = index(q="What is 23 + 45?")
    assert short.find("Exercise: what is 23 + 45 ? Answer 68") == {"suite#q"}
    assert short.find("Exercise: what is 23 - 45 ?") == set()


def test_common_speech_is_not_looked_for() -> None:
    made = index(q="How are you?")
    assert made.too_short == {"suite#q"}
    assert made.find("How are you? I am well.") == set()


def test_a_template_that_questions_share_makes_none_of_them_a_copy() -> None:
    template = "Read the following problem with great care and then give only the final number as your answer: {}"
    questions = {f"q{i}": template.format(f"What is {i}7 plus {i}9") for i in range(5)}
    made = index(**questions)
    assert made.find(template.format("How many legs have six spiders")) == set()
    assert made.find("x " + questions["q3"]) == {"suite#q3"}


def test_a_question_without_wording_of_its_own_is_not_looked_for_and_told() -> None:
    """Three times the same one is a template, twice is not."""
    made = index(a=SENTENCE, b=SENTENCE, c=SENTENCE, own="Nine brown hens sat by the barn", short="How are you?")
    assert made.find(SENTENCE) == set()
    assert made.template_only == {"suite#a", "suite#b", "suite#c"}
    assert made.unsearchable == made.template_only | {"suite#short"}
    assert index(a=SENTENCE, b=SENTENCE).unsearchable == set()


def test_chinese_is_compared_by_characters() -> None:
    text = "小明早上去市场买了七个苹果和三个梨子，回家以后他把一半的苹果分给了妹妹，还剩下几个水果？"
    made = index(q=text)
    assert made.find("题目：" + text.replace("，", "。") + "答案") == {"suite#q"}
    assert made.find(text[:25]) == set()
    assert made.find("A long English text. " * 30 + text) == {"suite#q"}


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_a_search_that_compares_everything(seed: int) -> None:
    """Oracle: a string search for every n-gram."""
    draw = random.Random(seed)
    words = ["a", "b", "c", "d", "e"]
    questions = {f"q{i}": " ".join(draw.choice(words) for _ in range(draw.randrange(5, 20))) for i in range(30)}
    made = OverlapIndex(OverlapConfig(ngram_words=8, max_sharing=100))
    for name, text in questions.items():
        made.add(f"s#{name}", text)
    made.build()
    text = " ".join(draw.choice(words) for _ in range(3_000))
    expected = set()
    for name, question in questions.items():
        q = question.split()
        n = min(8, len(q))
        if any(f" {' '.join(q[i : i + n])} " in f" {text} " for i in range(len(q) - n + 1)):
            expected.add(f"s#{name}")
    assert made.find(text) == expected


WORD = re.compile(r"\w+|[-+*/=<>^%×÷]")


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("aB İΣς 1-×中\n")))
def test_units_are_the_lowered_words_and_signs_and_in_chinese_their_characters(text: str) -> None:
    """Oracle: a regular expression; a word by itself is one unit, whatever stood around it."""
    words = WORD.findall(text.lower())
    assert units(text, chinese=False).tolist() == [units(word, chinese=False)[0] for word in words]
    assert units(text, chinese=True).tolist() == [units(c, chinese=False)[0] for word in words for c in word]


@given(st.lists(st.sampled_from("ab"), max_size=12), st.integers(1, 6))
def test_equal_runs_have_equal_hashes_and_others_have_not(words: list[str], n: int) -> None:
    found = grams(units(" ".join(words), chinese=False), n).tolist()
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    assert len(found) == len(runs)
    assert all((a == b) == (x == y) for a, x in zip(found, runs, strict=True) for b, y in zip(found, runs, strict=True))
