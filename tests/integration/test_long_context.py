"""A variant for longer texts on its way to a release: extended, asked for needles, judged by them. Random weights at pico."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from pico import Lab

from tokenmill.deployment.config import BundleConfig, ExtendConfig
from tokenmill.deployment.verify import verify
from tokenmill.errors import InputError
from tokenmill.evaluation.config import EvaluateConfig, GateConfig, NeedlesConfig
from tokenmill.manifest import Manifest
from tokenmill.steps.files import materialise

pytestmark = pytest.mark.integration
SUITES = {length: f"generate/needle-{length}" for length in (100, 400)}


def test_a_long_variant_is_judged_by_its_own_needles_and_released_with_them(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    lab = Lab(tmp_path)
    parent = lab.weights()
    child = lab.step("deployment.extend", ExtendConfig(context=512), weights=parent)["output"]
    asked = NeedlesConfig(lengths=tuple(SUITES), depths=(0, 50, 100))
    questions = lab.step("evaluation.needles", asked, haystack=lab.corpus, tokenizer=lab.tokenizer)["output"]

    def measured(weights: Manifest) -> Manifest:
        config = EvaluateConfig(label="chat-long", answer_tokens=8)
        inputs = {"weights": weights, "tokenizer": lab.tokenizer, "questions": questions}
        return lab.step("evaluation.evaluate", config, **inputs)["output"]

    def judged(candidate: Manifest, least: float) -> Manifest:
        limits = {suite: {"min": least} for suite in SUITES.values()}
        silent = ("max_contaminated", "max_delta1", "licences", "current")
        alone: dict[str, Any] = dict.fromkeys(silent) | {"template": False}
        return lab.step("evaluation.gate", GateConfig(limits=limits, **alone), candidate=candidate)["output"]

    evaluation = measured(child)
    told = orjson.loads(lab.store.bytes_of(evaluation.shard("evaluation.json")))
    assert {name: suite["metric"] for name, suite in told["suites"].items()} == dict.fromkeys(
        SUITES.values(), "needle score"
    )
    assert measured(parent).content != evaluation.content

    inputs = {"weights": child, "tokenizer": lab.tokenizer, "evaluation": evaluation}
    with pytest.raises(InputError, match=r"did not pass chat-long: generate/needle-100, generate/needle-400"):
        lab.step(
            "deployment.bundle", BundleConfig(), verdict=judged(evaluation, 0.5), **inputs
        )  # it never learned to find

    verdict = judged(evaluation, 0.0)
    assert set(orjson.loads(lab.store.bytes_of(verdict.shard("verdict.json")))["needle"]) == {"100", "400"}
    release = lab.step("deployment.bundle", BundleConfig(name="chat-long"), verdict=verdict, **inputs)["output"]
    folder = materialise(lab.store, release, tmp_path / "release")
    found = verify(folder).release
    assert found["max_position_embeddings"] == 512 and found["rope_theta"] > 50_000
    assert found["weights"] == child.content
    assert "A needle in a haystack" in (folder / "verdict.md").read_text()
