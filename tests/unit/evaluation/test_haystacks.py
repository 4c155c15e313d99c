"""Needles as questions: where they lie by another count of tokens, what answers score, and the map in the verdict."""

import xml.etree.ElementTree as ElementTree

import pytest
from pico import Lab

from tokenmill.errors import InputError
from tokenmill.evaluation.config import NeedlesConfig
from tokenmill.evaluation.grading import graded, graded_as
from tokenmill.evaluation.haystacks import needle_map
from tokenmill.evaluation.measured import Measured
from tokenmill.evaluation.verdict import as_text, page
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.records import read_jsonl

CONFIG = NeedlesConfig(lengths=(100, 400), depths=(0, 50, 100))


@pytest.fixture
def questions(lab: Lab):
    made = lab.step("evaluation.needles", CONFIG, haystack=lab.corpus, tokenizer=lab.tokenizer)["output"]
    return {shard.name: list(read_jsonl(lab.store.path_of(shard))) for shard in made.shards}


def test_a_suite_a_length_and_a_question_a_depth(lab: Lab, questions) -> None:
    assert set(questions) == {"generate/needle-100.jsonl.zst", "generate/needle-400.jsonl.zst"}
    words = Tokenizer.load(lab.folder / "tokenizer")
    for name, rows in questions.items():
        length = int(name.split("-")[1].split(".")[0])
        assert [row["id"] for row in rows] == ["0", "50", "100"]
        for row in rows:
            text, _, asked = row["question"].rpartition("\n\n")
            assert asked == CONFIG.question
            assert abs(len(words.encode(text)) - length) <= 3  # decoded and read again, pieces may meet at the seams
            before = text.index(row["answer"][0])
            share = len(words.encode(text[:before])) / len(words.encode(text))
            assert share == pytest.approx(float(row["id"]) / 100 * (1 - 30 / length), abs=0.2)
            assert text.count(row["answer"][1]) == 1
    numbers = [row["answer"][1] for rows in questions.values() for row in rows]
    assert len(set(numbers)) == len(numbers)  # knowing one place's number helps at no other


def test_an_answer_is_worth_what_opencompass_gives_it(questions) -> None:
    row = questions["generate/needle-100.jsonl.zst"][0]
    assert graded(f"It is {row['answer'][1]}, I think.", row)[1] == 1.0
    assert 0 < graded("The magic number of this text is 1.", row)[1] <= 0.2
    assert graded_as("generate", [row]) == "needle score"


def test_a_haystack_that_is_too_small_is_said(lab: Lab) -> None:
    with pytest.raises(InputError, match=r"haystack of [\d,]+ tokens, .* asks for 1,000,000"):
        lab.step(
            "evaluation.needles", NeedlesConfig(lengths=(1_000_000,)), haystack=lab.corpus, tokenizer=lab.tokenizer
        )


def test_the_verdict_shows_the_map() -> None:
    rows = {
        "generate/needle-400": {"0": 1.0, "50": 0.1},
        "generate/needle-1000": {"0": 0.5},
        "generate/maths": {"a": 1.0},
    }
    measured = Measured({}, {suite: {id: {"score": s} for id, s in found.items()} for suite, found in rows.items()})
    found = needle_map(measured)
    assert found == {"400": {"0": 100.0, "50": 10.0}, "1000": {"0": 50.0}}
    verdict = {"passed": True, "label": "chat-200k", "model": "m" * 64, "checks": [], "clean": {}, "needle": found}
    assert "| 400 | 100 | 10 |" in as_text(verdict) and "| 1000 | 50 | – |" in as_text(verdict)
    drawn = page(verdict)
    svg = ElementTree.fromstring(drawn[drawn.index("<svg") : drawn.index("</svg>") + 6])
    assert len(svg.findall("rect")) == 3
    assert "<svg" not in page(verdict | {"needle": {}})
