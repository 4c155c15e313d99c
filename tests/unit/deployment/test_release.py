"""A release pins what it is made of; whatever differs is refused."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import torch
from pico import Lab, released
from release_facts import FACTS
from safetensors.torch import load_file, save_file

from tokenmill.deployment.card import card
from tokenmill.deployment.release import pin, sha256_of, tensor_digests
from tokenmill.deployment.verify import verify
from tokenmill.errors import CorruptError, InputError
from tokenmill.steps.files import materialise


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    return materialise(lab.store, released(lab).release, lab.folder / "release")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A release that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "release"))


def test_a_whole_release_is_accepted(folder: Path) -> None:
    found = verify(folder, expected=sha256_of(folder / "release.json"))
    assert set(found.release["files"]) == {
        *("config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("special_tokens.json", "chat_template.jinja", "README.md"),
        *("verdict.md", "verdict.json", "evaluation.json"),
    }


def flip_a_byte(name: str) -> Callable[[Path], None]:
    def flip(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)

    return flip


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (flip_a_byte("model.safetensors"), "model.safetensors has sha256"),
        (flip_a_byte("tokenizer.json"), "tokenizer.json has sha256"),
        (flip_a_byte("chat_template.jinja"), "chat_template.jinja has sha256"),
        (lambda folder: (folder / "generation_config.json").unlink(), "generation_config.json is missing"),
        (lambda folder: (folder / "modeling.py").write_text("import os"), "modeling.py is not part of the release"),
    ],
)
def test_whatever_differs_is_refused_and_named(folder: Path, damage: Callable[[Path], None], named: str) -> None:
    damage(folder)
    with pytest.raises(CorruptError, match=named):
        verify(folder)


def test_a_release_that_was_pinned_anew_is_not_the_registered_one(folder: Path) -> None:
    registered = sha256_of(folder / "release.json")
    flip_a_byte("model.safetensors")(folder)
    pinned = orjson.loads((folder / "release.json").read_bytes())
    pinned["files"]["model.safetensors"]["sha256"] = sha256_of(folder / "model.safetensors")
    (folder / "release.json").write_bytes(orjson.dumps(pinned))
    verify(folder)
    with pytest.raises(CorruptError, match="wanted is " + registered):
        verify(folder, expected=registered)


def test_the_command_line_verifies_a_folder(folder: Path) -> None:
    command = [sys.executable, "-m", "tokenmill.cli", "release", "verify", str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "as released" in told and "neither attested nor signed" in told
    flip_a_byte("config.json")(folder)
    refused = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert refused.returncode == 2 and refused.stderr.startswith("tokenmill: ") and "config.json" in refused.stderr


def test_a_folder_without_release_json_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no release"):
        verify(tmp_path)


def test_tensor_digests_do_not_depend_on_the_file(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}
    save_file(tensors, tmp_path / "one.safetensors", metadata={"format": "pt"})
    save_file({"b": tensors["b"], "c": torch.ones(4), "a": tensors["a"]}, tmp_path / "two.safetensors")
    one, two = dict(tensor_digests(tmp_path / "one.safetensors")), dict(tensor_digests(tmp_path / "two.safetensors"))
    assert one["a"] == two["a"] and one["b"] == two["b"]
    assert len({one["a"], two["b"], two["c"]}) == 3  # the name counts, and the values


def test_a_release_is_a_llama_that_stops_where_a_chat_turn_ends(lab: Lab, folder: Path) -> None:
    config = orjson.loads((folder / "config.json").read_bytes())
    assert config["architectures"] == ["LlamaForCausalLM"] and "auto_map" not in config
    assert not config.get("rope_scaling")
    ends = orjson.loads((folder / "generation_config.json").read_bytes())["eos_token_id"]
    special = orjson.loads((folder / "special_tokens.json").read_bytes())
    assert sorted(ends) == sorted([special["</s>"], special["<|im_end|>"]])
    assert set(load_file(folder / "model.safetensors")) == set(verify(folder).release["tensors"])


def test_the_card_tells_numbers_licences_and_training_sets(folder: Path) -> None:
    page = (folder / "README.md").read_text()
    assert "| perplexity/en | perplexity | 10 | 9 – 11 | 50 |" in page
    assert "| tales | CC0-1.0 | made for tests |" in page
    assert "| made.sft | conversations |" in page
    policy = hashlib.sha256(b'{"limits":{}}').hexdigest()
    assert f"1 checks by policy `{policy[:12]}`" in page
    assert orjson.loads((folder / "release.json").read_bytes())["verdict"]["policy"] == policy


def test_what_the_gate_refused_is_not_bundled(lab: Lab) -> None:
    with pytest.raises(InputError, match=r"did not pass chat: format/chat\. Nothing is released"):
        released(lab, passed=False)


def test_what_no_gate_judged_is_not_bundled(lab: Lab) -> None:
    with pytest.raises(InputError, match=r"is verdict of made\.by_hand, no verdict of evaluation\.gate"):
        released(lab, gate="made.by_hand")


@pytest.mark.parametrize("about", ["weights", "tokenizer", "evaluation", "training_sets"])
def test_evidence_about_something_else_is_refused(lab: Lab, about: str) -> None:
    with pytest.raises(InputError, match="is about another"):
        released(lab, foreign=about)


def test_a_release_of_several_weight_files_pins_every_tensor_of_each(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({f"layer.{number}": torch.full((2,), float(number))}, tmp_path / f"model-{number}-of-2.safetensors")
    pin(tmp_path, FACTS)
    found = verify(tmp_path).release
    assert set(found["tensors"]) == {"layer.1", "layer.2"} and len(found["files"]) == 2
    flip_a_byte("model-2-of-2.safetensors")(tmp_path)
    with pytest.raises(CorruptError, match="model-2-of-2.safetensors has sha256"):
        verify(tmp_path)


def test_the_card_says_what_is_not_known(lab: Lab) -> None:
    facts = FACTS | {"evaluation": {"content": "e" * 64, "label": "chat", "suites": {}}, "lineage": None}
    shape = {"max_position_embeddings": 512, "rope_theta": 10000.0, "torch_dtype": "float32"}
    page = card(facts, shape, 7)
    for said in (
        "Nobody wrote down what it was trained on",
        "Its safety was not measured",
        "licences of its data are not known",
    ):
        assert said in page
