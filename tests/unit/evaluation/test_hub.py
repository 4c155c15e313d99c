"""Datasets and models by the names that people give them."""

import json

import pytest
from pico import Lab, released

from tokenmill.errors import InputError
from tokenmill.evaluation import hub
from tokenmill.evaluation.dataset import Dataset
from tokenmill.manifest import Manifest
from tokenmill.model.exchange import model_of
from tokenmill.records import JSONL

ASKED = {
    "description": "d",
    "language": "en",
    "licence": "MIT",
    "group": "qa",
    "inferencer": "generate",
    "template": "{q}",
}


def added(lab: Lab, name: str) -> Manifest:
    (lab.folder / "test.jsonl").write_text(json.dumps({"q": "Why?", "answer": name}))
    return hub.add(lab.store, Dataset.at("dataset.yaml", ASKED | {"name": name}), lab.folder).questions


def test_datasets_are_meant_by_name_by_suite_by_digest_or_all(lab: Lab) -> None:
    with pytest.raises(InputError, match="the store has no dataset; see `eval add`"):
        hub.chosen(lab.store, [])
    capitals, maths = added(lab, "capitals"), added(lab, "gsm8k")
    drawn = lab.issue("questions", {f"generate/sums{JSONL}": [{"id": "1", "question": "1 + 1?", "answer": "2"}]})
    assert hub.chosen(lab.store, []) == ({"capitals": capitals, "gsm8k": maths}, {})
    found = hub.chosen(lab.store, ["base", drawn.digest[:20], "capitals"])
    assert found.questions == {"gsm8k": maths, drawn.digest[:12]: drawn, "capitals": capitals}
    assert set(found.lacking["base"]) == {*hub.suite("base").names} - {"gsm8k"}
    assert hub.loop_items(lab.store, ["capitals"], ["arc_easy"]) == [
        {"questions": capitals.digest, "lm_eval": "", "suffix": ".capitals"},
        {"questions": "", "lm_eval": "arc_easy", "suffix": ".arc_easy"},
    ]
    assert len(hub.loop_items(lab.store, [], [])) == 2 and len(hub.loop_items(lab.store, [], ["arc_easy"])) == 1
    with pytest.raises(InputError, match="no dataset witch, wicked in the store, which has capitals, gsm8k"):
        hub.chosen(lab.store, ["witch", "capitals", "wicked"])
    with pytest.raises(InputError, match="is corpus, no questions"):
        hub.chosen(lab.store, [lab.corpus.digest])


def test_a_model_is_meant_by_its_weights_its_release_or_its_tokenizer(lab: Lab) -> None:
    made = released(lab)
    both = {"weights": made.weights, "tokenizer": lab.tokenizer}
    assert model_of(lab.store, made.release.digest) == both == model_of(lab.store, made.weights.digest[:16])
    other = lab.issue_json("tokenizer", {"tokenizer.json": {}})
    assert model_of(lab.store, made.release.digest, other.digest) == both | {"tokenizer": other}
    assert model_of(lab.store, tokenizer=other.digest) == {"tokenizer": other}
    with pytest.raises(InputError, match="give weights; of a served model whose weights are not in the store"):
        model_of(lab.store)
