"""Models in and out: a foreign checkpoint is imported, evaluated, trained on and exported, through the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import sentencepiece
import torch
from foreign import IDS, ROWS, foreign_llama
from made_tokenizers import CHAPTERS, SPARES, write_sentencepiece
from pico import Lab, documents

from tokenmill.enhancement.config import EnhanceConfig
from tokenmill.evaluation.config import EvaluateConfig
from tokenmill.manifest import Manifest
from tokenmill.model.folder import load_model, save_model
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.pretraining.config import TokenizeConfig
from tokenmill.records import JSONL
from tokenmill.steps.files import materialise
from tokenmill.training.settings import OptimConfig

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    torch.set_num_threads(1)
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def tokenmill(lab: Lab) -> Callable[..., Any]:
    """The command with --json, in a process of its own, on the lab's store."""

    def run(*arguments: Any) -> Any:
        command = [sys.executable, "-m", "tokenmill.cli", "model", *map(str, arguments), "--json"]
        environment = os.environ | {"TOKENMILL_STORE": lab.store.uri, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, capture_output=True, env=environment, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return orjson.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def source(lab: Lab) -> Path:
    return foreign_llama(lab.folder / "tiny-foreign")


@pytest.fixture(scope="module")
def imported(lab: Lab, tokenmill: Callable[..., Any], source: Path) -> dict[str, Manifest]:
    digests = tokenmill(
        "import", source, "--licence", "Apache-2.0", "--origin", "made for tests", "--tokens-seen", 9000
    )
    assert digests.pop("new_tokens") == 384 - IDS
    return {role: lab.store.get_manifest(digest) for role, digest in digests.items()}


def test_an_imported_model_says_what_it_said(lab: Lab, imported: dict[str, Manifest], source: Path) -> None:
    """The oracle is transformers on the folder itself: logits of all ids that its tokenizer has."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    ours = load_model(materialise(lab.store, imported["weights"], lab.folder / "w"))
    words = Tokenizer.load(materialise(lab.store, imported["tokenizer"], lab.folder / "t"))
    assert ours.config.vocab_size == words.vocab_size == ROWS
    assert (ours.config.bos_token_id, ours.config.eos_token_id) == (words.bos_id, words.eos_id) == (0, 0)
    theirs, their_words = LlamaForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    text = "The old king rode over the hills."
    ids = words.encode(text)
    assert ids[:16] == their_words.encode(text, add_special_tokens=False)[:16]
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits[0, :, :IDS]
        assert logits.std() > 0.5
        torch.testing.assert_close(ours(torch.tensor(ids))[:, :IDS], logits, atol=1e-4, rtol=0)


def test_importing_again_gives_the_same_digests_and_the_lineage_ends_at_its_licence(
    lab: Lab, tokenmill: Callable[..., Any], imported: dict[str, Manifest], source: Path
) -> None:
    from tokenmill.lineage import upstream

    again = tokenmill("import", source, "--licence", "Apache-2.0", "--origin", "made for tests", "--tokens-seen", 9000)
    assert {role: again[role] for role in imported} == {role: manifest.digest for role, manifest in imported.items()}
    (root,) = upstream(lab.store, imported["weights"].digest).sources
    assert (root.name, root.licence, root.origin) == ("tiny-foreign", "Apache-2.0", "made for tests")
    assert imported["weights"].kind == "weights" and imported["tokenizer"].kind == "tokenizer"


def test_an_imported_model_is_evaluated(lab: Lab, imported: dict[str, Manifest]) -> None:
    rows = {f"perplexity/en{JSONL}": [{"id": str(i), "text": r["text"]} for i, r in enumerate(documents(8))]}
    rows[f"format/chat{JSONL}"] = [{"id": "c", "messages": [{"role": "user", "content": "What is 7 + 5?"}]}]
    inputs = {"weights": imported["weights"], "tokenizer": imported["tokenizer"]}
    config = EvaluateConfig(label="base", answer_tokens=8, resamples=100)
    made = lab.step("evaluation.evaluate", config, questions=lab.issue("questions", rows), **inputs)["output"]
    suites = orjson.loads(lab.store.get_blob(made.shard("evaluation.json").blob))["suites"]
    assert suites["perplexity/en"]["value"] > 1
    assert suites["format/chat"]["n"] == 1


def test_an_imported_model_goes_through_enhancement(
    lab: Lab, tokenmill: Callable[..., Any], imported: dict[str, Manifest]
) -> None:
    words = imported["tokenizer"]
    domain = lab.decontaminated(lab.corpus)
    inputs = {"corpus": domain["corpus"], "tokenizer": words}
    tokens = lab.step("pretraining.tokenize", TokenizeConfig(heldout_share=0.1), **inputs)["output"]
    config = EnhanceConfig(
        tokens=8_192,
        batch_tokens=1_024,
        context=128,
        precision="fp32",
        evaluations=2,
        heldout_tokens=1_000,
        optim=OptimConfig(lr=3e-3),
    )
    inputs = {"tokens": tokens, "base": imported["weights"], "decontamination": domain["decontamination"]}
    trained = lab.step("enhancement.enhance", config, **inputs)["weights"]
    assert 9_000 + 7 * 1_024 <= trained.counts["tokens_seen"] <= 9_000 + 8 * 1_024
    before, after = (
        load_model(materialise(lab.store, m, lab.folder / m.digest[:8])) for m in (imported["weights"], trained)
    )
    ids = torch.tensor(Tokenizer.load(materialise(lab.store, words, lab.folder / "t2")).encode(documents(4)[0]["text"]))
    with torch.no_grad():
        losses = [float(model(ids[:-1], labels=ids[1:]).mean()) for model in (before, after)]
    assert losses[1] < losses[0] - 0.5
    # what was trained leaves with the tokenizer that its lineage names
    tokenmill("export", trained.digest, lab.folder / "trained", "--layout", "internlm2")
    assert Tokenizer.load(lab.folder / "trained").special["<|plugin|>"] == 380


@pytest.mark.parametrize("layout", ["llama", "internlm2"])
def test_an_export_is_a_folder_that_comes_back_the_same(
    lab: Lab, tokenmill: Callable[..., Any], imported: dict[str, Manifest], layout: str
) -> None:
    target = lab.folder / f"exported-{layout}"
    arguments = ("--layout", layout, "--max-shard-size", "60KB")
    told = tokenmill("export", imported["weights"].digest[:16], target, *arguments)
    names = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert names | {"special_tokens.json", "model.safetensors.index.json"} <= set(told["files"])
    assert json.loads((target / "generation_config.json").read_text())["eos_token_id"] == [0, 2]
    back = tokenmill("import", target, "--licence", "Apache-2.0")
    assert back["new_tokens"] == 0
    same = {role: lab.store.get_manifest(back[role]).content for role in ("weights", "tokenizer")}
    assert same == {role: imported[role].content for role in same}


def test_an_export_in_another_precision(lab: Lab, tokenmill: Callable[..., Any], imported: dict[str, Manifest]) -> None:
    tokenmill("export", imported["weights"].digest, lab.folder / "half", "--dtype", "bfloat16")
    assert json.loads((lab.folder / "half" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    seen = tokenmill("inspect", lab.folder / "half")
    assert seen["dtypes"] == {"BF16": seen["tensors"]}


def test_inspection_tells_what_a_folder_and_an_artifact_hold(
    tokenmill: Callable[..., Any], imported: dict[str, Manifest], source: Path
) -> None:
    theirs, ours = tokenmill("inspect", source), tokenmill("inspect", imported["weights"].digest)
    assert (theirs["layout"], ours["layout"]) == ("llama", "internlm2")
    assert (theirs["vocabulary"], ours["vocabulary"]) == (IDS, ROWS)
    assert "<|reward|>" in theirs["missing_tokens"] and not ours["missing_tokens"]
    assert ours["special_tokens"]["<|action_start|>"] == ROWS - 1
    assert (ours["tensors"], theirs["tensors"]) == (2 * 7 + 3, 2 * 9 + 2)  # Wqkv is one, the tied output none
    assert ours["parameters"] - theirs["parameters"] == ROWS * 48
    assert ours["dimensions"]["num_key_value_heads"] == 2


def test_resharding_through_the_command_line(
    lab: Lab, tokenmill: Callable[..., Any], imported: dict[str, Manifest]
) -> None:
    told = tokenmill("reshard", imported["weights"].digest, lab.folder / "tp2", "--tp", 2)
    assert told["files"] == ["config.json", "tp-0-of-2", "tp-1-of-2"]
    assert tokenmill("inspect", lab.folder / "tp2")["tensor_parallel"] == 2
    whole = tokenmill("inspect", imported["weights"].digest)["parameters"]
    assert tokenmill("inspect", lab.folder / "tp2")["parameters"] == whole
    tokenmill("reshard", lab.folder / "tp2", lab.folder / "tp1", "--tp", 1)
    stored = materialise(lab.store, imported["weights"], lab.folder / "stored")
    assert (lab.folder / "tp1" / "model.safetensors").read_bytes() == (stored / "model.safetensors").read_bytes()


def test_our_own_model_is_imported_as_it_is(lab: Lab, tokenmill: Callable[..., Any]) -> None:
    weights = lab.weights(4)
    folder = materialise(lab.store, weights, lab.folder / "own")
    materialise(lab.store, lab.tokenizer, folder)
    back = tokenmill("import", folder, "--licence", "Apache-2.0")
    assert lab.store.get_manifest(back["tokenizer"]).content == lab.tokenizer.content
    assert (
        lab.store.get_manifest(back["weights"]).shard("model.safetensors").content
        == weights.shard("model.safetensors").content
    )


def test_what_does_not_fit_is_one_line(lab: Lab, source: Path, tmp_path: Path) -> None:
    from tokenmill.model.config import InternLM2Config
    from tokenmill.model.modeling import InternLM2ForCausalLM

    save_model(InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=1), tmp_path / "alone")
    damaged = foreign_llama(tmp_path / "damaged")
    index = json.loads((damaged / "model.safetensors.index.json").read_text())
    del index["weight_map"]["model.norm.weight"]
    (damaged / "model.safetensors.index.json").write_text(json.dumps(index))
    cases = {
        ("import", damaged, "--licence", "MIT"): "does not hold the model asked for: model.norm.weight is missing",
        ("reshard", damaged, tmp_path / "two", "--tp", 2): "model.norm.weight is missing",
        ("import", tmp_path / "alone", "--licence", "MIT"): "no tokenizer in",
        ("reshard", source, tmp_path / "three", "--tp", 3): "degree of 3 does not divide 2 KV heads",
        ("export", source, tmp_path / "out"): "bring it in with `tokenmill model import`",
        ("inspect", lab.tokenizer.digest): "is tokenizer: give weights or release",
        ("export", lab.weights(5, tokenizer=[]).digest, tmp_path / "out2", "--tokenizer", source): "tokenizer lacks",
    }
    environment = os.environ | {"TOKENMILL_STORE": lab.store.uri, "PYTHONPATH": os.pathsep.join(sys.path)}
    for arguments, told in cases.items():
        command = [sys.executable, "-m", "tokenmill.cli", "model", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, env=environment, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.startswith("tokenmill: ") and done.stderr.count("\n") == 1 and told in done.stderr


def test_a_folder_with_a_bare_sentencepiece_file_is_imported(
    lab: Lab, tokenmill: Callable[..., Any], tmp_path: Path
) -> None:
    """As InternLM2 was released: tokenizer.model and no tokenizer.json. Its ids stay, its spares are the chat's tokens."""
    folder = foreign_llama(tmp_path / "released", vocab_size=1408, tie_word_embeddings=False)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    write_sentencepiece(folder, vocab_size=1408 - SPARES)
    seen = tokenmill("inspect", folder)
    assert (seen["vocabulary"], seen["special_tokens"]["<|im_start|>"]) == (1408, 1407)
    made = tokenmill("import", folder, "--licence", "Apache-2.0")
    assert made["new_tokens"] == 0
    words = Tokenizer.load(materialise(lab.store, lab.store.get_manifest(made["tokenizer"]), tmp_path / "t"))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert words.encode(CHAPTERS[50]) == theirs.encode(CHAPTERS[50])
    assert (words.im_start_id, words.reward_id) == (1407, 1408 - 17)
    source = lab.store.get_manifest(made["sources"])
    assert "tokenizer.model" in source.facts["sources"]["released"]["files"]
