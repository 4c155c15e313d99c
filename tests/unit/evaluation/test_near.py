"""Which questions are found reworded, and which only look like it."""

import random

import pytest

from tokenmill.overlap.near import NearIndex, NearRule

QUESTION = (
    "A baker in the old harbour town sells 48 loaves of rye bread every morning and 17 sweet rolls after noon. "
    "How many pieces has she sold when the week of 6 days is over?"
)
REWORDED = (
    "In the old harbour town, a baker sells 48 loaves of dark rye bread every morning and then 17 sweet rolls after lunch. "
    "How many pieces has she sold once the working week of 6 days is over?"
)
TWIN = QUESTION.replace("48", "52").replace("17", "23")
OTHER = (
    "A gardener plants 48 tulips in 6 rows and waters them every 17 hours until the summer fair has opened its gates."
)


def index(*questions: str, **rule: float) -> NearIndex:
    made = NearIndex(NearRule(**rule), max_sharing=2)
    for number, question in enumerate(questions):
        made.add(f"suite#{number}", question)
    made.build()
    return made


@pytest.mark.parametrize("around", ["{}", "x " * 5_000 + "{}" + " y" * 5_000, f"{OTHER} {{}} {OTHER}"])
def test_a_reworded_question_is_found_whatever_stands_around_it(around: str) -> None:
    assert index(QUESTION).find(around.format(REWORDED)) == {"suite#0"}


@pytest.mark.parametrize("text", [TWIN, OTHER, "", "48 17 6"])
def test_a_twin_with_other_numbers_and_another_problem_are_not_it(text: str) -> None:
    assert index(QUESTION).find(text) == set()


def test_the_words_must_stand_in_one_passage() -> None:
    pieces = [" ".join(REWORDED.split()[i : i + 8]) for i in range(0, 40, 8)]
    assert index(QUESTION).find((" far away " * 200).join(pieces)) == set()


def test_a_phrase_that_is_said_again_and_again_is_no_paraphrase() -> None:
    assert index(QUESTION).find("48 loaves of rye bread every morning and 17 sweet rolls of 6 days " * 50) == set()


def test_the_wording_that_questions_share_is_their_template() -> None:
    """Of five problems of one template only what each has for itself counts, which here is too little to look for."""
    twins = [QUESTION.replace("48", str(n)) for n in range(30, 35)]
    made = index(*twins)
    assert made.looked_for == set()
    assert made.find(twins[0]) == set()


def test_chinese_is_compared_by_characters() -> None:
    question = "小明早上去市场买了7个苹果和3个梨子，回家以后他把一半的苹果分给了妹妹，还剩下几个水果？"
    reworded = "早上小明去市场买了7个红苹果和3个梨子，回到家以后他把一半苹果分给了妹妹，还剩下几个水果呢？"
    assert index(question).find("题目：" + reworded) == {"suite#0"}
    assert index(question).find(reworded.replace("7", "9")) == set()


def test_agrees_with_a_search_that_compares_everything() -> None:
    """Oracle: every window of every text, counted with sets; several texts through one index."""
    draw = random.Random(5)
    words = [f"w{i}" for i in range(40)]
    questions = [[draw.choice(words) for _ in range(16)] for _ in range(12)]
    made = index(*(" ".join(q) for q in questions), share=0.4)
    trigrams = [{tuple(q[i : i + 3]) for i in range(14)} for q in questions]
    for _ in range(60):
        text = [draw.choice(words) for _ in range(120)]
        for _ in range(4):  # plant pieces of questions, some of which will make it and some not
            piece, at = draw.choice(questions), draw.randrange(100)
            size, begin = draw.randrange(3, 12), draw.randrange(5)
            text[at : at + size] = piece[begin : begin + size]
        runs = [tuple(text[i : i + 3]) for i in range(len(text) - 2)]
        wanted = {
            f"suite#{k}"
            for k, own in enumerate(trigrams)
            for i in range(len(runs))
            if len(own & set(runs[i : i + 32])) >= 0.4 * len(own)
        }
        assert made.find(" ".join(text)) == wanted
