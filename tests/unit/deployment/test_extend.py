"""A variant for longer texts: its base is the one that other implementations have at that length, and stays."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from pico import Lab, released

from tokenmill.deployment.config import BundleConfig, ExtendConfig
from tokenmill.errors import InputError
from tokenmill.manifest import Manifest
from tokenmill.model.config import InternLM2Config
from tokenmill.model.folder import export_llama, load_model
from tokenmill.steps.files import materialise

CONTEXT = 4096
IDS = torch.randint(3, 500, (CONTEXT,), generator=torch.Generator().manual_seed(1))


def extended(lab: Lab, weights: Manifest, **fields: Any) -> Manifest:
    return lab.step("deployment.extend", ExtendConfig(**fields), weights=weights)["output"]


def config_of(lab: Lab, weights: Manifest) -> dict[str, Any]:
    return dict(orjson.loads(lab.store.bytes_of(weights.shard("config.json"))))


@pytest.mark.parametrize(
    ("fields", "base"),
    [
        ({}, 11_645_259.3),  # 200K: 1M · (2 · 200,000 / 32,768 − 1)^(128/126)
        ({"context": 65_536}, 3_052_773.7),  # report's own model, spec §13, check 4
        ({"context": 65_536, "rope_theta": 5e6}, 5e6),
    ],
)
def test_the_released_7b_gets_the_base_that_dynamic_ntk_has_at_the_new_length(lab: Lab, fields, base) -> None:
    released_7b = InternLM2Config(rope_theta=1e6, rope_scaling={"type": "dynamic", "factor": 2.0})
    path = lab.folder / "config.json"
    path.write_text(released_7b.to_json())
    child = extended(lab, lab.issue("weights", {"config.json": path}), **fields)
    told = config_of(lab, child)
    assert told["rope_theta"] == pytest.approx(base, abs=0.1)
    assert told["rope_scaling"] is None and told["max_position_embeddings"] == fields.get("context", 200_000)
    assert InternLM2Config.from_json(orjson.dumps(told).decode()).rope_theta_at(1_000_000) == told["rope_theta"]


def test_no_tensor_is_copied_and_the_child_is_another_model(lab: Lab) -> None:
    weights = lab.weights()
    child = extended(lab, weights, context=CONTEXT)
    blobs = [{s.name: s.blob for s in one.shards if s.name != "config.json"} for one in (weights, child)]
    assert blobs[0] == blobs[1] and len(blobs[0]) >= 1
    assert child.content != weights.content and child.parents == {"weights": (weights.digest,)}
    same = {"max_position_embeddings", "rope_theta", "rope_scaling"}
    assert {k: v for k, v in config_of(lab, child).items() if k not in same} == {
        k: v for k, v in config_of(lab, weights).items() if k not in same
    }


def test_a_base_is_scaled_once(lab: Lab) -> None:
    child = extended(lab, lab.weights(), context=CONTEXT)
    with pytest.raises(InputError, match="was extended already"):
        extended(lab, child, context=2 * CONTEXT)
    with pytest.raises(InputError, match=r"reads 128 tokens already; .* \(128\) must be more"):
        extended(lab, lab.weights(1), context=128)


def test_evidence_of_the_parent_releases_no_child(lab: Lab) -> None:
    made = released(lab)
    child = extended(lab, made.weights, context=CONTEXT)
    inputs = {"weights": child, "tokenizer": lab.tokenizer, "evaluation": made.evaluation, "verdict": made.verdict}
    with pytest.raises(InputError, match="the evaluation is about another weights"):
        lab.step("deployment.bundle", BundleConfig(), **inputs)


@pytest.fixture
def child(lab: Lab, tmp_path: Path) -> Path:
    """The child's weights, of a model whose predictions are far from uniform."""
    torch.set_num_threads(1)
    return materialise(lab.store, extended(lab, lab.weights(), context=CONTEXT), tmp_path / "child")


@pytest.mark.parametrize("length", [100, 1024, CONTEXT])
def test_the_release_computes_what_our_child_does_at_1k_and_at_length(child: Path, tmp_path: Path, length: int) -> None:
    from transformers import LlamaForCausalLM

    export_llama(child, tmp_path / "llama")
    llama = LlamaForCausalLM.from_pretrained(tmp_path / "llama", attn_implementation="eager")
    with torch.no_grad():
        ours, theirs = load_model(child)(IDS[:length]), llama(IDS[None, :length]).logits[0]
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


def test_at_its_length_the_child_is_what_dynamic_ntk_is_there_and_not_below(
    lab: Lab, child: Path, tmp_path: Path
) -> None:
    """transformers scales the parent's base while it runs: an implementation of the formula that is not ours."""
    from transformers import LlamaConfig, LlamaForCausalLM

    materialise(lab.store, lab.weights(), tmp_path / "parent")
    export_llama(tmp_path / "parent", tmp_path / "llama")
    shape = LlamaConfig.from_pretrained(tmp_path / "llama")
    theta = orjson.loads((tmp_path / "llama" / "config.json").read_bytes())["rope_theta"]
    shape.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": theta}
    dynamic = LlamaForCausalLM.from_pretrained(tmp_path / "llama", config=shape, attn_implementation="eager")
    ours = load_model(child)
    with torch.no_grad():
        torch.testing.assert_close(dynamic(IDS[None]).logits[0], ours(IDS), atol=1e-4, rtol=1e-4)
        short = dynamic(IDS[None, :64]).logits[0]
        assert (short - ours(IDS[:64])).abs().max() > 1e-3  # which is why the base is fixed, and evaluated as it is
