"""What the suites are drawn from, and what they must not be drawn from."""

from collections.abc import Iterator
from typing import Any

import pytest
from pico import Lab, documents

from tokenmill.evaluation.config import PrepareConfig
from tokenmill.manifest import Manifest
from tokenmill.records import JSONL, read_jsonl

CONFIG = PrepareConfig(perplexity_bytes=2_000, document_bytes=300, questions=12, prompts=8, contamination=10)
HELDOUT = {r["id"] for i, r in enumerate(documents()) if i % 4 == 0}


@pytest.fixture
def questions(lab: Lab) -> Manifest:
    known = [r | {"id": f"again-{r['id']}"} for r in documents() if r["type"] == "math"]  # the generator repeats itself
    reference = lab.issue("corpus", {f"type=math/lang=en/part-00000{JSONL}": [*known, *documents(seed=4)]})
    inputs = {"corpus": lab.corpus, "tokens": lab.tokens, "reference": reference, "conversations": lab.conversations}
    return lab.step("evaluation.prepare", CONFIG, **inputs)["output"]


def rows(lab: Lab, questions: Manifest, suite: str) -> Iterator[dict[str, Any]]:
    return read_jsonl(lab.store.blob_path(questions.shard(f"{suite}{JSONL}").blob))


def test_every_suite_is_there(questions: Manifest) -> None:
    assert sorted(shard.name.removesuffix(JSONL) for shard in questions.shards) == [
        *("choice/larger", "choice/next_line", "contamination/maths", "format/chat", "generate/chat", "generate/maths"),
        "generate/safety",
        *("perplexity/chat", "perplexity/code", "perplexity/en", "perplexity/math"),
    ]


@pytest.mark.parametrize(
    "suite", ["perplexity/en", "perplexity/code", "perplexity/math", "generate/maths", "choice/next_line"]
)
def test_only_held_out_documents_are_asked_about(lab: Lab, questions: Manifest, suite: str) -> None:
    ids = {row["id"].partition("@")[0] for row in rows(lab, questions, suite)}
    assert ids and ids <= HELDOUT


def test_right_choices_are_right(lab: Lab, questions: Manifest) -> None:
    for row in rows(lab, questions, "choice/larger"):
        numbers = [int(text.rsplit(" ", 1)[1]) for text in row["choices"]]
        assert numbers[row["answer"]] == max(numbers)
    texts = {r["id"]: r["text"] for r in documents()}
    for row in rows(lab, questions, "choice/next_line"):
        right = [text in texts[row["id"].partition("@")[0]] for text in row["choices"]]
        assert right == [i == row["answer"] for i in range(4)]


def test_right_answers_are_not_always_in_one_place(lab: Lab, questions: Manifest) -> None:
    for suite in ("choice/larger", "choice/next_line"):
        assert len({row["answer"] for row in rows(lab, questions, suite)}) > 1


def test_few_documents_still_fill_the_sets(lab: Lab) -> None:
    """One long held-out document: its pieces follow each other, and hold a text that was not cut within a character."""
    text = "\n".join(f"第{i}行：春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。" for i in range(200))
    row = {"id": "long", "text": text, "type": "book", "lang": "zh"}
    corpus = lab.issue("corpus", {f"zh/part-00000{JSONL}": [row]})
    tokens = lab.issue("tokens", {f"zh/part-00000.documents{JSONL}": [{"id": "long", "heldout": True}]})
    made = lab.step("evaluation.prepare", CONFIG, corpus=corpus, tokens=tokens)["output"]
    pieces = list(rows(lab, made, "perplexity/zh"))
    assert [row["id"] for row in pieces] == ["long", *(f"long@{i}" for i in range(1, 7))]
    assert 1_900 < sum(len(row["text"].encode()) for row in pieces) <= 2_000
    assert all(row["text"] in text for row in pieces)
    lines = list(rows(lab, made, "choice/next_line"))
    assert len(lines) == CONFIG.questions == len({row["question"] for row in lines})


def test_splits_share_no_question(lab: Lab, questions: Manifest) -> None:
    splits: dict[str, set[str]] = {}
    for row in rows(lab, questions, "contamination/maths"):
        splits.setdefault(row["split"], set()).add(row["question"])
    assert sorted(splits) == ["reference", "test", "train"]
    assert len(set.union(*splits.values())) == sum(map(len, splits.values()))


def test_a_test_question_that_is_also_trained_on_is_left_out(lab: Lab) -> None:
    """Planted: a held-out problem gets a copy among the trained documents."""
    records = documents()
    leaked = next(r for r in records if r["id"] in HELDOUT and r["type"] == "math")
    corpus = lab.issue("corpus", {f"all/part-00000{JSONL}": [*records, leaked | {"id": "copy"}]})
    made = lab.step("evaluation.prepare", CONFIG, corpus=corpus, tokens=lab.tokens)["output"]
    asked = {row["question"] for row in rows(lab, made, "generate/maths")}
    assert asked and leaked["question"] not in asked


def test_prompts_end_with_the_user(lab: Lab, questions: Manifest) -> None:
    prompts = list(rows(lab, questions, "format/chat"))
    assert len(prompts) == CONFIG.prompts
    assert all(row["messages"][-1]["role"] == "user" for row in prompts)


def test_the_order_of_the_corpus_does_not_matter(lab: Lab) -> None:
    shuffled = lab.issue("corpus", {f"b/part-00000{JSONL}": documents()[::-1]})
    drawn = [
        lab.step("evaluation.prepare", CONFIG, corpus=c, tokens=lab.tokens)["output"] for c in (lab.corpus, shuffled)
    ]
    assert drawn[0].content == drawn[1].content


def test_without_problems_and_conversations_there_are_still_answers_to_give(lab: Lab) -> None:
    corpus = lab.issue("corpus", {f"c/part-00000{JSONL}": [r for r in documents() if r["type"] == "web"]})
    made = lab.step("evaluation.prepare", CONFIG, corpus=corpus, tokens=lab.tokens)["output"]
    assert made.counts["generate/maths"] == CONFIG.questions
    assert made.counts["format/chat"] == CONFIG.prompts
    assert "contamination/maths" not in made.counts
