"""The step as a whole, on an untrained model: the negative control of every claim."""

import math
from typing import Any

import orjson
import pytest
from pico import Lab, documents

from tokenmill.evaluation.config import EvaluateConfig, PrepareConfig
from tokenmill.manifest import Manifest
from tokenmill.records import JSONL, read_jsonl
from tokenmill.steps import find

PREPARE = PrepareConfig(perplexity_bytes=1_500, document_bytes=300, questions=24, prompts=6, contamination=10)
CONFIG = EvaluateConfig(label="chat", answer_tokens=8, resamples=200)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def questions(lab: Lab) -> Manifest:
    reference = lab.issue("corpus", {f"type=math/lang=en/part-00000{JSONL}": documents(seed=4)})
    inputs = {"corpus": lab.corpus, "tokens": lab.tokens, "reference": reference, "conversations": lab.conversations}
    return lab.step("evaluation.prepare", PREPARE, **inputs)["output"]


def evaluate(lab: Lab, questions: Manifest, config: EvaluateConfig = CONFIG, seed: int = 0) -> tuple[Manifest, Any]:
    inputs = {"weights": lab.weights(seed), "tokenizer": lab.tokenizer, "questions": questions}
    made = lab.step("evaluation.evaluate", config, **inputs)["output"]
    return made, orjson.loads(lab.store.get_blob(made.shard("evaluation.json").blob))


def test_an_untrained_model_knows_nothing(lab: Lab, questions: Manifest) -> None:
    _, found = evaluate(lab, questions)
    suites = found["suites"]
    for domain in ("en", "code", "math"):
        assert math.isclose(suites[f"perplexity/{domain}"]["value"], 512, rel_tol=0.1)  # one of 512 tokens
    assert suites["format/chat"]["value"] <= 0.2
    assert suites["generate/maths"]["value"] <= 0.1
    assert suites["choice/next_line"]["ci_low"] <= 0.25 <= suites["choice/next_line"]["ci_high"]
    assert abs(found["contamination"]["maths"]["delta1"]["value"]) < 0.05
    assert abs(found["contamination"]["maths"]["delta2"]["value"]) < 0.05


def asked(lab: Lab, questions: Manifest, suite: str) -> list[Any]:
    return list(read_jsonl(lab.store.blob_path(questions.shard(f"{suite}{JSONL}").blob)))


def test_every_number_can_be_traced_to_its_predictions(lab: Lab, questions: Manifest) -> None:
    made, found = evaluate(lab, questions)
    rows = list(read_jsonl(lab.store.blob_path(made.shard(f"predictions{JSONL}").blob)))
    for name, suite in found["suites"].items():
        mine = [row for row in rows if row["suite"] == name]
        assert len(mine) == suite["n"]
        if suite["metric"] != "perplexity":
            assert math.isclose(suite["value"], sum(row["score"] for row in mine) / len(mine), rel_tol=1e-6)
        else:  # every byte of the texts counts, whatever tokens it fell into
            texts = (
                b"".join(r["text"].encode() for r in asked(lab, questions, name)) if name != "perplexity/chat" else b""
            )
            bits = sum(row["loss"] for row in mine) / math.log(2)
            assert not texts or math.isclose(suite["bits_per_byte"], bits / len(texts), rel_tol=1e-6)
    assert made.counts["records"] == len(rows) == sum(questions.counts[n] for n in questions.counts if "/" in n)


def test_intervals_hold_the_value(lab: Lab, questions: Manifest) -> None:
    for suite in evaluate(lab, questions)[1]["suites"].values():
        assert suite["ci_low"] <= suite["value"] <= suite["ci_high"]


def test_the_same_inputs_give_the_same_numbers(lab: Lab, questions: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = evaluate(lab, questions)
    monkeypatch.setattr("tokenmill.steps.runner.lookup", lambda store, key: None)
    again, _ = evaluate(lab, questions)
    other, _ = evaluate(lab, questions, seed=1)
    assert made.content == again.content != other.content


def test_a_base_model_is_asked_plainly_but_for_the_format_of_a_chat(lab: Lab, questions: Manifest) -> None:
    _, found = evaluate(lab, questions, CONFIG.model_copy(update={"form": "plain", "label": "base"}))
    assert found["suites"]["format/chat"]["value"] <= 0.2
    assert "generate/maths" in found["suites"]


def test_batches_and_workers_are_no_part_of_the_identity() -> None:
    config = EvaluateConfig.at("evaluation.evaluate", {"execution": {"batch_rows": 3, "batch_tokens": 256}})
    assert config.identity() == {}
    assert find("evaluation.evaluate").reproducible == "same_platform"
