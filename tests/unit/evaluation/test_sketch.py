"""A shard's sketch may say maybe too often, and no only where it is so."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pico import Lab
from pydantic import ValidationError

from tokenmill.evaluation.config import ContaminationConfig
from tokenmill.evaluation.search import Search
from tokenmill.overlap import sketch, units
from tokenmill.overlap.sketch import Sketch
from tokenmill.records import JSONL, Record

WORDS = [f"{a}{b}" for a in ("ba", "ko", "li", "mu", "ten", "za") for b in ("dor", "fin", "gas", "hem", "jol")]


def sentence(draw: random.Random, length: int) -> str:
    return " ".join(draw.choices(WORDS, k=length))


def search(*questions: str, **rule: int) -> Search:
    made = Search(ContaminationConfig(**rule))
    for number, question in enumerate(questions):
        made.add("generate/maths", {"id": str(number), "question": question, "answer": "7"})
    made.build()
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch, "STRETCH", 600)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("length", [5, 9, 13, 40])
def test_every_document_in_which_something_is_found_is_suspect(length: int) -> None:
    """Oracle: the search itself, over all documents; copies, paraphrases and neither, of short questions and long ones."""
    draw = random.Random(length)
    questions = [sentence(draw, length) for _ in range(20)]
    documents = [sentence(draw, 60) for _ in range(80)]
    for place, question in enumerate(questions[:10]):
        words = question.split()
        if place % 2 and length > 20:
            words[12] = words[25] = "reworded"
        documents[8 * place] = f"{sentence(draw, 20)} {' '.join(words)} {sentence(draw, 20)}"
    asked = search(*questions)
    found = {number for number, document in enumerate(documents) if asked.find(document)}
    suspects = {number for stretch in Sketch.made(documents).suspects(asked.probes) for number in stretch}
    assert {8 * place for place in range(10)} <= found <= suspects
    assert len(suspects) < 0.6 * len(documents)


def test_the_shortest_question_that_a_rule_may_ask_for_is_suspect_too() -> None:
    for field in ("min_words", "ngram_words"):
        with pytest.raises(ValidationError):
            search(**{field: 2})
    asked = search("green hens fly", min_words=3, ngram_words=3)
    document = "We have seen that green hens fly at night."
    assert asked.find(document) and list(Sketch.made([document]).suspects(asked.probes))


@pytest.mark.usefixtures("small")
def test_stretches_hold_every_document_once_and_chinese_is_found_too() -> None:
    question = "小明早上去市场买了7个苹果和3个梨子，回家以后他把一半的苹果分给了妹妹，还剩下几个水果？"
    draw = random.Random(3)
    documents = [sentence(draw, draw.randrange(0, 150)) for _ in range(50)]
    documents[31] = f"题目：{question}答案"
    made = Sketch.made(documents)
    assert [number for records, _, _ in made.stretches() for number in records] == list(range(50))
    (stretch,) = made.suspects(search(question).probes)
    assert 31 in stretch
    assert list(Sketch.made([]).suspects(search(question).probes)) == []


def test_a_sketch_is_made_once_for_a_shard_and_again_where_its_file_is_gone(lab: Lab) -> None:
    shard = lab.issue("corpus", {f"part-00000{JSONL}": [{"id": "a", "text": "text"}]}).shards[0]
    read = []

    def records() -> Iterator[Record]:
        read.append(1)
        yield {"text": sentence(random.Random(1), 100)}

    first = Sketch.remembered(lab.store, shard, records())
    again = Sketch.remembered(lab.store, shard, records())
    assert len(read) == 1 and again.words.tolist() == first.words.tolist()
    for entry in list(lab.store.backend.list("blobs/")):
        lab.store.backend.delete(entry.key)
    assert Sketch.remembered(lab.store, shard, records()).words.tolist() == first.words.tolist()
    assert len(read) == 2


DECIDES: tuple[tuple[str, Callable[[], Any]], ...] = (
    ("tokenmill.overlap.sketch.STRETCH", lambda: 1 << 17),
    ("tokenmill.overlap.sketch.NGRAM", lambda: {False: 4, True: 5}),
    ("tokenmill.overlap.sketch.NGRAM", lambda: {False: 3, True: 6}),
    ("tokenmill.overlap.asked.TRAINED", lambda: ("prompt", "messages", "chosen")),
    ("tokenmill.overlap.sketch.TRAINED", lambda: ("prompt", "messages", "chosen", "rejected", "tools")),
    ("tokenmill.overlap.units._table", lambda: another_table),
)


def another_table(known: Any = units._table()) -> Any:
    """Of a Unicode in which one letter more has no lower case."""
    changed = known.copy()
    changed[ord("Ж")] = ord("Ж")
    return changed


@pytest.mark.parametrize(("name", "value"), DECIDES)
def test_whatever_decides_a_sketch_makes_another_one_of_the_same_shard(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str, value: Callable[[], Any]
) -> None:
    shard = lab.issue("corpus", {f"part-00000{JSONL}": [{"id": "a", "text": "text"}]}).shards[0]
    read = []

    def remember() -> None:
        sketch._making.cache_clear()
        Sketch.remembered(lab.store, shard, (read.append(1) or {"text": "green hens fly"} for _ in range(1)))

    remember()
    remember()
    assert len(read) == 1
    monkeypatch.setattr(name, value())
    remember()
    assert len(read) == 2
    monkeypatch.undo()
    sketch._making.cache_clear()
