"""Dimensions: every number here is from the report's Table 3 or the released configs."""

import json

import pytest
import torch

from tokenmill.errors import ConfigError
from tokenmill.model.config import InternLM2Config, dynamic_ntk_base
from tokenmill.model.modeling import InternLM2ForCausalLM, inverse_frequencies

RELEASED = {  # exact parameters, shape of Wqkv, bytes of KV cache a token in bf16
    "internlm2-1.8b": (1_889_110_016, (4096, 2048), 98_304),
    "internlm2-7b": (7_737_708_544, (6144, 4096), 131_072),
    "internlm2-20b": (19_861_149_696, (8192, 6144), 196_608),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_dimensions_are_exact_in_the_formula_and_in_the_model(name):
    parameters, wqkv, kv_bytes = RELEASED[name]
    config = InternLM2Config.preset(name)
    with torch.device("meta"):
        model = InternLM2ForCausalLM(config)
    assert config.parameter_count() == sum(p.numel() for p in model.parameters()) == parameters
    assert tuple(model.model.layers[0].attention.wqkv.weight.shape) == wqkv
    assert 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim == kv_bytes


@pytest.mark.parametrize("name", ["pico", "nano"])
def test_small_presets_count_what_they_hold(name):
    config = InternLM2Config.preset(name)
    assert config.parameter_count() == sum(p.numel() for p in InternLM2ForCausalLM(config, seed=None).parameters())
    assert config.vocab_size % 128 == 0


@pytest.mark.parametrize(
    ("base", "second", "last"), [(50_000, 0.84445905, 2.368e-5), (1_000_000, 0.80584219, 1.241e-6)]
)
def test_rope_frequencies(base, second, last):
    frequencies = inverse_frequencies(base, 128)
    assert len(frequencies) == 64
    assert frequencies[1].item() == pytest.approx(second, abs=1e-7)
    assert frequencies[63].item() == pytest.approx(last, rel=1e-3)


@pytest.mark.parametrize(("length", "base"), [(1, 1e6), (32_768, 1e6), (65_536, 3_052_773.7), (200_000, 11_645_259.3)])
def test_dynamic_ntk_base(length, base):
    assert dynamic_ntk_base(length, 1e6, 2.0, 32_768, 128) == pytest.approx(base, abs=0.1)
    released = InternLM2Config(rope_theta=1e6, rope_scaling={"type": "dynamic", "factor": 2.0})
    assert released.rope_theta_at(length) == pytest.approx(base, abs=0.1)
    assert InternLM2Config(rope_theta=1e6).rope_theta_at(length) == 1e6


def test_rope_base_switches_between_phases():
    first = InternLM2Config.preset("nano")
    second = first.with_rope_theta(1_000_000)
    assert (first.rope_theta, second.rope_theta) == (50_000, 1_000_000)
    assert second.with_rope_theta(first.rope_theta) == first


def test_json_round_trip_and_keys_of_the_released_format():
    config = InternLM2Config.preset("nano").with_rope_theta(1e6)
    values = json.loads(config.to_json())
    assert values["architectures"] == ["InternLM2ForCausalLM"]
    assert values["model_type"] == "internlm2"
    assert InternLM2Config.from_json(config.to_json()) == config


def test_released_config_is_read_though_it_has_other_keys_and_no_head_dim():
    released = {
        "auto_map": {"AutoModel": "modeling_internlm2.InternLM2ForCausalLM"},
        "model_type": "internlm2",
        "hidden_size": 6144,
        "num_attention_heads": 48,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "intermediate_size": 16384,
        "vocab_size": 92544,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "rope_theta": 1000000,
        "attn_implementation": "eager",
    }
    config = InternLM2Config.from_json(json.dumps(released))
    assert config.head_dim == 128
    assert config.parameter_count() == 19_861_149_696


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": 64}, "head_dim"),
        ({"bias": True}, "bias"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "yarn"),
    ],
)
def test_impossible_dimensions_are_refused_by_name(change, named):
    with pytest.raises(ConfigError, match=named):
        InternLM2Config(**change)


def test_unknown_preset_lists_the_known():
    with pytest.raises(ConfigError, match="internlm2-7b"):
        InternLM2Config.preset("internlm2-8b")
