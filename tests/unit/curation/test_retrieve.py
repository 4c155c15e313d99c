"""BM25 over a corpus. Oracle: the library bm25s, which holds the whole corpus at once."""

import random

import bm25s
import pytest
from pico import Lab

from tokenmill.curation.config import RetrieveConfig
from tokenmill.curation.retrieve import terms
from tokenmill.errors import InputError
from tokenmill.records import JSONL, read_jsonl

WORDS = ["".join(random.Random(i).choices("abcdefgh", k=3)) for i in range(60)]


def document(number: int, text: str, **more) -> dict:
    known = {"id": f"d{number:03d}", "type": "web", "lang": "en", "source": "made", "path": f"{number}", "scores": {}}
    return known | {"text": text} | more


def texts(n: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 60))) for _ in range(n)]


def retrieved(lab: Lab, documents: list[dict], questions: list[dict], shard: int = 7, **config):
    shards = {
        f"type=web/lang=en/part-{i:05d}{JSONL}": documents[i * shard : (i + 1) * shard]
        for i in range(-(-len(documents) // shard))
    }
    made = lab.step(
        "curation.retrieve",
        RetrieveConfig(**config),
        corpus=lab.issue("corpus", shards),
        questions=lab.issue("questions", {f"generate/seeds{JSONL}": questions}),
    )
    kept = [row for s in made["corpus"].shards for row in read_jsonl(lab.store.blob_path(s.blob))]
    return {row["id"]: row["retrieved"] for row in kept}, made


@pytest.mark.parametrize("seed", range(3))
def test_scores_and_ranks_are_those_of_a_search_in_the_whole_corpus(tmp_path, seed):
    documents = [document(i, text) for i, text in enumerate(texts(50, seed))]
    questions = [{"id": f"q{i}", "question": text} for i, text in enumerate(texts(4, seed + 100))]
    lab = Lab(tmp_path)
    kept, made = retrieved(lab, documents, questions, per_question=5)

    oracle = bm25s.BM25(method="lucene", k1=1.5, b=0.75, dtype="float64")
    oracle.index([d["text"].split() for d in documents], show_progress=False)
    expected: dict[str, dict] = {}
    for question in questions:
        scores = oracle.get_scores([w for w in question["question"].split() if w in oracle.vocab_dict])
        best = sorted(range(50), key=lambda i: (-scores[i], i))[:5]
        for rank, i in enumerate(best):
            found = expected.setdefault(
                documents[i]["id"], {"score": 0.0, "rank": 9, "questions": 0, "category": "stem"}
            )
            found["score"] = max(found["score"], float(scores[i]))
            found["rank"], found["questions"] = min(found["rank"], rank), found["questions"] + 1
    assert kept.keys() == expected.keys()
    for name, found in kept.items():
        assert found == expected[name] | {"score": pytest.approx(expected[name]["score"], abs=2e-6)}
    assert made["corpus"].dropped == {"not_retrieved": 50 - len(expected)}
    assert made["corpus"].counts["in"] == 50
    aside = [row for s in made["corpus"].aside for row in read_jsonl(lab.store.blob_path(s.blob))]
    assert {row["id"] for row in aside} == {d["id"] for d in documents} - expected.keys()
    assert all(row["dropped"] == {"reason": "not_retrieved", "value": 0, "threshold": "≥ 1 question"} for row in aside)


def test_how_the_corpus_is_cut_into_shards_changes_nothing(tmp_path):
    documents = [document(i, text) for i, text in enumerate(texts(30, 9))]
    questions = [{"id": "q", "question": documents[3]["text"]}]
    one, _ = retrieved(Lab(tmp_path / "a"), documents, questions, shard=30, per_question=4)
    many, _ = retrieved(Lab(tmp_path / "b"), documents[::-1], questions, shard=4, per_question=4)
    assert one == many and len(one) == 4


def test_equal_documents_are_taken_by_id(tmp_path):
    documents = [document(i, "red apples fall") for i in (4, 2, 9, 7)] + [document(1, "blue sky")]
    kept, _ = retrieved(Lab(tmp_path), documents, [{"id": "q", "question": "Do apples fall?"}], shard=2, per_question=2)
    assert sorted(kept) == ["d002", "d004"]


def test_chinese_is_searched_by_neighbouring_characters():
    assert terms("The 苹果树 is 高") == ["the", "苹果", "果树", "is", "高"]
    assert terms("No Han, x = 2") == ["no", "han", "x", "2"]


def test_a_chinese_question_finds_its_document(tmp_path):
    documents = [
        document(0, "苹果从树上落到地上，是因为重力。", lang="zh"),
        document(1, "树上有很多鸟在唱歌。", lang="zh"),
        document(2, "An apple fell from the tree."),
    ]
    kept, _ = retrieved(Lab(tmp_path), documents, [{"id": "q", "question": "苹果为什么落到地上？"}], per_question=1)
    assert list(kept) == ["d000"]


def test_a_seed_out_of_the_corpus_does_not_find_itself_and_a_seed_without_words_asks_nothing(tmp_path):
    documents = [document(0, "one two three"), document(1, "two three four")]
    seeds = [{"id": "d000", "question": "one two three"}, {"id": "void", "question": "?!"}]
    kept, made = retrieved(Lab(tmp_path), documents, seeds)
    assert list(kept) == ["d001"] and made["report"].counts["questions"] == 1
    with pytest.raises(InputError, match="no question in questions"):
        retrieved(Lab(tmp_path / "other"), documents, seeds[1:])
