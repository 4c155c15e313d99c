"""Folders of weights: ours, LLaMA's, and what is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tokenmill.errors import ConfigError, CorruptError, InputError, StepFailed
from tokenmill.model.layout import export_llama, import_llama, load_model, read_config, read_state, save_model
from tokenmill.model.modeling import InternLM2Critic, InternLM2ForCausalLM, InternLM2ForRewardModel

IDS = torch.tensor([5, 9, 200, 31, 77, 3, 8, 8, 1, 250, 12, 40])


@pytest.fixture
def saved(model, tmp_path):
    save_model(model, tmp_path / "model")
    return tmp_path / "model"


def test_save_and_load_give_the_same_model(model, saved):
    loaded = load_model(saved)
    assert loaded.config == model.config
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert load_model(saved, dtype=torch.bfloat16).output.weight.dtype == torch.bfloat16


def test_saving_twice_gives_equal_bytes_and_one_metadata_key(model, saved, tmp_path):
    save_model(model, tmp_path / "again")
    assert {f.name: f.read_bytes() for f in saved.iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "again").iterdir()
    }
    with safe_open(saved / "model.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_released_llama_layout_gives_transformers_the_same_logits(model, saved, tmp_path):
    from transformers import LlamaForCausalLM

    export_llama(saved, tmp_path / "llama", stop_ids=(2, 254))
    llama = LlamaForCausalLM.from_pretrained(tmp_path / "llama", attn_implementation="eager")
    assert llama.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(llama(IDS[None]).logits[0], model(IDS), atol=1e-4, rtol=1e-4)
    assert llama.generation_config.eos_token_id == [2, 254]
    values = json.loads((tmp_path / "llama" / "config.json").read_text())
    assert values["rope_theta"] == model.config.rope_theta
    assert "rope_scaling" not in values


def test_export_can_fix_another_rope_base(saved, tmp_path):
    export_llama(saved, tmp_path / "long", rope_theta=11_645_259.3, max_position_embeddings=200_000)
    values = json.loads((tmp_path / "long" / "config.json").read_text())
    assert (values["rope_theta"], values["max_position_embeddings"]) == (11_645_259.3, 200_000)


def test_llama_round_trip_is_exact(model, saved, tmp_path):
    export_llama(saved, tmp_path / "llama")
    assert import_llama(tmp_path / "llama", tmp_path / "back") == model.config
    back, state = read_state(tmp_path / "back"), model.state_dict()
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_llama_written_by_transformers_is_imported(tmp_path):
    """Tied embeddings and the base inside rope_parameters, as in SmolLM2."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 77_000.0},
    )
    torch.manual_seed(0)
    llama = LlamaForCausalLM(config).eval()
    llama.save_pretrained(tmp_path / "llama")
    imported = import_llama(tmp_path / "llama", tmp_path / "ours")
    assert (imported.rope_theta, imported.queries_per_kv) == (77_000.0, 3)
    ids = IDS % 128
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path / "ours")(ids), llama(ids[None]).logits[0], atol=1e-4, rtol=1e-4)


def test_heads_are_exchanged_as_in_the_report(model, saved, tmp_path):
    """Reward model from SFT weights with a random head; critic from the reward model without its head."""
    reward = load_model(saved, InternLM2ForRewardModel, fresh_head=5)
    assert torch.equal(reward.model.norm.weight, model.model.norm.weight)
    save_model(reward, tmp_path / "reward")
    assert json.loads((tmp_path / "reward" / "config.json").read_text())["architectures"] == ["InternLM2ForRewardModel"]
    kept = load_model(tmp_path / "reward", InternLM2ForRewardModel)
    assert torch.equal(kept.v_head.weight, reward.v_head.weight)
    critic = load_model(tmp_path / "reward", InternLM2Critic, fresh_head=6)
    assert not torch.equal(critic.v_head.weight, reward.v_head.weight)
    assert torch.equal(critic.model.layers[1].attention.wqkv.weight, model.model.layers[1].attention.wqkv.weight)


def test_training_on_loaded_weights_does_not_touch_the_file(saved):
    before = (saved / "model.safetensors").read_bytes()
    loaded = load_model(saved)
    with torch.no_grad():
        loaded.output.weight.zero_()
    assert (saved / "model.safetensors").read_bytes() == before


def test_sharded_weights_are_read(model, saved):
    state = read_state(saved)
    (saved / "model.safetensors").unlink()
    names = sorted(state)
    save_file({name: state[name] for name in names[:5]}, saved / "model-00001-of-00002.safetensors")
    save_file({name: state[name] for name in names[5:]}, saved / "model-00002-of-00002.safetensors")
    torch.testing.assert_close(load_model(saved)(IDS), model(IDS))


def test_what_is_wrong_with_a_folder_is_said(model, saved, tmp_path):
    with pytest.raises(InputError, match=r"expected config\.json"):
        load_model(tmp_path)
    with pytest.raises(CorruptError, match=r"v_head\.weight is missing"):
        load_model(saved, InternLM2ForRewardModel)
    state = read_state(saved)
    save_file(state | {"output.weight": torch.zeros(2, 64)}, saved / "model.safetensors")
    with pytest.raises(CorruptError, match=r"output\.weight is \(2, 64\), not \(256, 64\)"):
        load_model(saved)
    del state["model.layers.1.ffn_norm.weight"]
    save_file(state, saved / "model.safetensors")
    with pytest.raises(CorruptError, match=r"model\.layers\.1\.ffn_norm\.weight is missing"):
        load_model(saved)
    (saved / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        load_model(saved)
    with pytest.raises(ConfigError, match="must be a LLaMA"):
        import_llama(saved, tmp_path / "out")
    assert read_config(saved) == model.config


@pytest.mark.parametrize(("fault", "said"), [(torch.empty(0), "is empty"), (torch.tensor([1.0, torch.nan]), "finite")])
def test_unsound_weights_are_not_written(grouped, tmp_path, fault, said):
    model = InternLM2ForCausalLM(grouped, seed=1)
    model.model.norm.weight.data = fault
    with pytest.raises(StepFailed, match=rf"model\.norm\.weight .*{said}"):
        save_model(model, tmp_path)
    assert not list(tmp_path.iterdir())
