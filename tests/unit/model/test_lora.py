"""LoRA: what it changes and what it does not. Oracles: the model without it, and PEFT on the exported model."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from tokenmill.errors import ConfigError, CorruptError, InputError
from tokenmill.model.folder import export_llama, load_model, save_model
from tokenmill.model.lora import ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapters, merge_adapter, trainable
from tokenmill.model.weights import read_state
from tokenmill.training.settings import LoRAConfig

IDS = torch.tensor([5, 9, 200, 31, 77, 3, 8, 8, 1, 250, 12, 40])
LORA = LoRAConfig(rank=4, alpha=8.0)


@pytest.fixture
def base(model, tmp_path):
    save_model(model, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def trained(base):
    """An adapted model after three steps: none of its matrices is where it began."""
    model = load_model(base)
    export = trainable(model, LORA, seed=1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(3):
        model(IDS[:-1], labels=IDS[1:]).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, export


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS)


def test_rank_0_trains_the_whole_model_and_writes_it_as_ever(base, tmp_path):
    model = load_model(base)
    trainable(model, LoRAConfig(), seed=1)(model, tmp_path / "out")
    assert all(parameter.requires_grad for parameter in model.parameters()) and not list(adapters(model))
    assert {f.name: f.read_bytes() for f in base.iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()
    }


def test_at_first_nothing_changes_and_only_adapters_learn(base):
    model = load_model(base)
    expected = logits(model)
    trainable(model, LORA, seed=1)
    assert torch.equal(logits(model), expected)
    model(IDS[:-1], labels=IDS[1:]).mean().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == {f"{name}.{part}" for name, _ in adapters(model) for part in ("lora_a", "lora_b")}
    assert len(list(adapters(model))) == 5 * model.config.num_hidden_layers


def test_only_the_targets_are_adapted(base):
    model = load_model(base)
    trainable(model, LoRAConfig(rank=2, targets=("wqkv", "w2")), seed=1)
    assert {name.rpartition(".")[2] for name, _ in adapters(model)} == {"wqkv", "w2"}


def test_what_is_written_computes_what_was_trained(trained, base, tmp_path):
    model, export = trained
    export(model, tmp_path / "out")
    expected = logits(model)
    assert float((expected - logits(load_model(base))).abs().max()) > 0.1
    assert float((logits(load_model(tmp_path / "out")) - expected).abs().max()) < 1e-5


def test_peft_puts_the_adapter_on_the_exported_model(trained, base, tmp_path):
    """As vLLM does: the release is LLaMA's layout, the adapter is written for it."""
    model, export = trained
    export(model, tmp_path / "out")
    export_llama(base, tmp_path / "llama")
    llama = LlamaForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(llama, str(tmp_path / "out" / ADAPTER)).eval()
    with torch.no_grad():
        theirs = adapted(IDS[None]).logits[0]
    assert float((theirs - logits(model)).abs().max()) < 1e-4


def test_merging_our_adapter_gives_the_exported_weights(trained, base, tmp_path):
    model, export = trained
    export(model, tmp_path / "out")
    assert merge_adapter(base, tmp_path / "out" / ADAPTER, tmp_path / "merged") == 7 * model.config.num_hidden_layers
    ours, merged = read_state(tmp_path / "out"), read_state(tmp_path / "merged")
    assert all(torch.allclose(merged[name], tensor, atol=1e-6) for name, tensor in ours.items())


def test_an_adapter_that_peft_trained_is_merged_as_peft_merges_it(base, tmp_path):
    """Of the queries and values alone, each with an A of its own: PEFT's default for LLaMA."""
    export_llama(base, tmp_path / "llama")
    llama = LlamaForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.float32)
    made = peft.get_peft_model(llama, peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    made.save_pretrained(str(tmp_path / "adapter"))
    with torch.no_grad():
        expected = made.merge_and_unload().eval()(IDS[None]).logits[0]
    merge_adapter(tmp_path / "llama", tmp_path / "adapter", tmp_path / "merged")
    assert float((logits(load_model(tmp_path / "merged")) - expected).abs().max()) < 1e-4
    assert float((logits(load_model(base)) - expected).abs().max()) > 0.01


def test_what_is_no_adapter_of_this_model_is_one_clear_line(trained, base, tmp_path):
    model, export = trained
    export(model, tmp_path / "out")
    adapter = tmp_path / "out" / ADAPTER
    with pytest.raises(InputError, match="is no adapter"):
        merge_adapter(base, base, tmp_path / "merged")
    told = json.loads((adapter / ADAPTER_CONFIG).read_text())
    (adapter / ADAPTER_CONFIG).write_text(json.dumps(told | {"use_dora": True}))
    with pytest.raises(ConfigError, match="use_dora"):
        merge_adapter(base, adapter, tmp_path / "merged")
    (adapter / ADAPTER_CONFIG).write_text(json.dumps(told))
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    name = next(n for n in tensors if "q_proj.lora_A" in n)
    save_file(tensors | {name: tensors[name][:, :-1].clone()}, adapter / ADAPTER_WEIGHTS)
    with pytest.raises(InputError, match="is not for the model"):
        merge_adapter(base, adapter, tmp_path / "merged")
    save_file({n: t for n, t in tensors.items() if n != name}, adapter / ADAPTER_WEIGHTS)
    with pytest.raises(CorruptError, match="an A and a B"):
        merge_adapter(base, adapter, tmp_path / "merged")
