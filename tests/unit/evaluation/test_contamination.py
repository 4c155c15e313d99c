"""What a model was trained on, by its lineage; and which questions stand in that."""

from typing import Any

import orjson
import pytest
from pico import Lab, chat, documents

from tokenmill.config import Execution
from tokenmill.errors import InputError
from tokenmill.evaluation.config import CollectConfig, ContaminationConfig
from tokenmill.manifest import Manifest
from tokenmill.records import JSONL

ALONE = ContaminationConfig(execution=Execution(workers=1))
SECRET = "In the year of the great flood seven tall masons built one narrow bridge of grey stone for the queen"


def collect(lab: Lab, weights: Manifest) -> tuple[Manifest, Any]:
    made = lab.step("evaluation.collect_training_sets", CollectConfig(), weights=weights)["output"]
    return made, orjson.loads(lab.store.get_blob(made.shard("training_sets.json").blob))


def steps(found: Any) -> list[str]:
    return sorted(one["step"] for one in found["sets"])


def corpus(lab: Lab, name: str, *texts: str, **more: Any) -> Manifest:
    rows = [{"id": f"{name}{i}", "text": text} for i, text in enumerate(texts or (name,))]
    return lab.issue("corpus", {f"{name}/part-00000{JSONL}": rows}, step=f"made.{name}", **more)


def conversations(lab: Lab, name: str, answer: str) -> Manifest:
    rows = [{"id": name, "messages": chat("Tell me.", answer)}]
    return lab.issue("conversations", {f"{name}{JSONL}": rows}, step=f"made.{name}")


def questions(lab: Lab, **suites: list[dict[str, Any]]) -> Manifest:
    return lab.issue("questions", {f"{name.replace('__', '/')}{JSONL}": rows for name, rows in suites.items()})


def hits(lab: Lab, weights: Manifest, asked: Manifest) -> dict[str, int]:
    sets, _ = collect(lab, weights)
    made = lab.step("evaluation.contamination", ALONE, training_sets=sets, questions=asked)["output"]
    report = orjson.loads(lab.store.get_blob(made.shard("decontamination.json").blob))
    assert report["model"] == weights.content
    return {suite: row["hits"] for suite, row in report["suites"].items()}


def test_every_stage_of_a_models_life_is_walked(lab: Lab) -> None:
    """Base ← tokens ← corpus; enhanced; SFT on conversations; a reward model's preferences; PPO on prompts."""
    base = lab.weights(step="pretraining.train")
    enhanced = lab.weights(step="enhancement.enhance", base=base, corpus=corpus(lab, "maths"))
    heldout = conversations(lab, "heldout", "never trained on")
    sft = lab.weights(step="sft.train", base=enhanced, conversations=conversations(lab, "sft", "yes"), heldout=heldout)
    pairs = [
        {"id": "p", "prompt": [{"role": "user", "content": "hm"}], "chosen": chat("a", "b"), "rejected": chat("a", "c")}
    ]
    preferences = lab.issue("preferences", {f"p{JSONL}": pairs}, step="made.preferences")
    reward = lab.weights(step="rlhf.reward", base=sft, preferences=preferences)
    final = lab.weights(step="rlhf.ppo", actor=sft, reward=reward, prompts=conversations(lab, "prompts", "…"))
    _, found = collect(lab, final)
    assert steps(found) == ["made.maths", "made.preferences", "made.prompts", "made.sft", "test.made"]
    assert [source["licence"] for source in found["sources"]] == ["CC0-1.0"]


@pytest.mark.parametrize("tokenised", [True, False])
def test_what_a_filter_dropped_was_not_trained_on(lab: Lab, tokenised: bool) -> None:
    raw = corpus(lab, "raw", SECRET, "kept text")
    clean = corpus(lab, "clean", "kept text", corpus=raw)
    tokens = lab.issue("tokens", {f"d{JSONL}": [{"id": "clean0", "heldout": False}]}, corpus=clean)
    weights = lab.weights(tokens=tokens if tokenised else clean)
    assert steps(collect(lab, weights)[1]) == ["made.clean"]
    asked = questions(lab, generate__maths=[{"id": "q", "question": SECRET, "answer": "1"}])
    assert hits(lab, weights, asked) == {"generate/maths": 0}


@pytest.mark.parametrize("where", ["corpus", "conversations", "preferences"])
def test_a_planted_question_is_found_in_every_kind_of_training_set(lab: Lab, where: str) -> None:
    planted = {
        "corpus": lambda: corpus(lab, "bad", "other text", f"Once: {SECRET}. The end."),
        "conversations": lambda: conversations(lab, "bad", SECRET),
        "preferences": lambda: lab.issue(
            "preferences", {f"p{JSONL}": [{"id": "p", "prompt": SECRET, "chosen": "a", "rejected": "b"}]}
        ),
    }[where]()
    base = lab.weights()
    weights = lab.weights(base=base, data=planted)
    asked = questions(
        lab,
        generate__maths=[
            {"id": "q", "question": SECRET, "answer": "1"},
            {"id": "r", "question": SECRET[::-1], "answer": "1"},
        ],
        contamination__maths=[{"id": "q", "question": SECRET, "answer": "1", "split": "train"}],
    )
    assert hits(lab, weights, asked) == {"generate/maths": 1}
    assert hits(lab, base, asked) == {"generate/maths": 0}


def test_held_out_documents_of_a_tokenised_corpus_do_not_count(lab: Lab) -> None:
    rows = documents()
    heldout, trained = rows[0], rows[1]
    weights = lab.weights()
    both = questions(lab, perplexity__en=[{"id": r["id"], "text": r["text"]} for r in (heldout, trained)])
    assert hits(lab, weights, both) == {"perplexity/en": 1}
    assert hits(lab, weights, questions(lab, perplexity__en=[{"id": "h", "text": heldout["text"]}])) == {
        "perplexity/en": 0
    }


def test_the_same_weights_with_another_history_are_not_read_from_the_cache(lab: Lab) -> None:
    """Equal bytes, two lineages: only one of them saw the question."""
    clean, dirty = lab.weights(), lab.weights(data=corpus(lab, "bad", SECRET))
    assert clean.content == dirty.content
    asked = questions(lab, generate__maths=[{"id": "q", "question": SECRET, "answer": "1"}])
    assert [hits(lab, weights, asked)["generate/maths"] for weights in (clean, dirty)] == [0, 1]


def test_a_lineage_with_a_hole_is_refused(lab: Lab) -> None:
    lost = corpus(lab, "lost", "text")
    weights = lab.weights(data=lost)
    lab.store.backend.delete(f"manifests/{lost.digest}")
    with pytest.raises(InputError, match="cannot be checked"):
        collect(lab, weights)
