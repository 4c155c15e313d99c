"""What a stage needs. Oracles: sums by hand for 7B, and the memory that a process really takes."""

from dataclasses import replace

import pytest

from tokenmill.errors import ConfigError
from tokenmill.model.config import InternLM2Config
from tokenmill.training.flops import accelerator, flops_per_token, multiplied_weights, recomputed_flops_per_token
from tokenmill.training.plan import Layout, activations, memory, plan

SEVEN = InternLM2Config.preset("internlm2-7b")
TRILLION = 1_000_000_000_000


def test_operations_a_token_by_hand():
    # per layer Wqkv 4096×6144, Wo 4096², FFN 3×4096×14336, two norms; the last norm; the head
    layer = 4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336 + 2 * 4096
    assert multiplied_weights(SEVEN) == 32 * layer + 4096 + 92544 * 4096
    assert flops_per_token(SEVEN, 4096) == 6 * multiplied_weights(SEVEN) + 6 * 32 * 4096 * 4096
    forward_of_layers = 2 * (32 * layer + 4096) + 2 * 32 * 4096 * 4096
    assert recomputed_flops_per_token(SEVEN, 4096) - flops_per_token(SEVEN, 4096) == forward_of_layers


def test_what_a_layer_of_7b_keeps_is_what_its_tensors_are():
    layout = Layout(ranks=1, zero_stage=1, micro_batch_tokens=4096, recompute="none")
    d, kv, f = 4096, 1024, 14336
    # bf16: the layer's input, its norm, Wqkv's output, the rotated q and k, q by heads, attention's output, the sum and its norm;
    # gate, its silu, up, and their product. fp32: two norms' statistics and attention's, one a head
    layer = 2 * (2 * d + (d + 2 * kv) + (d + kv) + d + d + 2 * d) + 2 * 4 * f + 4 * (2 + 32)
    assert activations(SEVEN, layout) == 4096 * (32 * layer + 2 * 2 * d)


@pytest.mark.parametrize(("stage", "whole"), [(0, 16), (1, 4 + 12 / 8), (2, 2 + 14 / 8), (3, 16 / 8)])
def test_bytes_a_weight_by_zero_stage_are_the_paper_s(stage, whole):
    held = memory(SEVEN, Layout(ranks=8, zero_stage=stage, micro_batch_tokens=4096, recompute="full"))
    states = held.weights + held.gradients + held.optimizer
    assert states == pytest.approx(whole * SEVEN.parameter_count())  # Rajbhandari et al. 2020, figure 1


def test_a_plan_of_7b_on_64_devices():
    layout = Layout(ranks=64, zero_stage=1, micro_batch_tokens=4096, recompute="none")
    told = plan(SEVEN, 4096, 2 * TRILLION, layout, accelerator("h100"), mfu=0.5, price=2.0)
    assert told.tokens_per_s == pytest.approx(64 * 0.5 * 989e12 / flops_per_token(SEVEN, 4096))
    assert told.seconds == pytest.approx(2 * TRILLION / told.tokens_per_s)
    assert told.cost == pytest.approx(told.seconds / 3600 * 64 * 2.0)
    assert told.fits
    assert told.hfu == told.mfu
    assert not plan(SEVEN, 4096, TRILLION, Layout(1, 1, 4096, "none"), accelerator("h100")).fits


def test_recomputation_takes_less_memory_and_more_operations():
    plans = [
        plan(SEVEN, 4096, TRILLION, Layout(64, 1, 4096, again), accelerator("h100"))
        for again in ("none", "selective", "full")
    ]
    assert plans[2].memory.activations < plans[0].memory.activations / 8
    assert plans[2].memory.activations < plans[1].memory.activations < plans[0].memory.activations * 0.6
    assert plans[2].hfu > plans[1].hfu == plans[0].hfu
    assert plans[2].seconds == plans[0].seconds


def test_a_micro_batch_smaller_than_a_sequence_is_refused():
    with pytest.raises(ConfigError, match="holds no sequence"):
        plan(SEVEN, 4096, TRILLION, Layout(8, 1, 1024, "full"), accelerator("h100"))


MEASURE = """
import gc
import torch
from psutil import Process
from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2ForCausalLM

config = InternLM2Config(vocab_size=512, hidden_size=512, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=2,
                         head_dim=64, intermediate_size=1536)
model = InternLM2ForCausalLM(config)
model.model.recompute = "RECOMPUTE"
ids = torch.zeros(1024, dtype=torch.long)
ends = torch.arange(0, 1025, 128, dtype=torch.int32)
model.model.packed(ids, ends).sum().backward()  # gradients, threads and buffers are there now
gc.collect()
before = Process().memory_info().rss
kept = model.model.packed(ids, ends)
print(Process().memory_info().rss - before)
"""


@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_activations_of_a_small_model_are_what_its_process_takes(run_python, recompute):
    small = InternLM2Config(vocab_size=512, hidden_size=512, num_hidden_layers=6, num_attention_heads=8,
                            num_key_value_heads=2, head_dim=64, intermediate_size=1536)  # fmt: skip
    layout = Layout(ranks=1, zero_stage=1, micro_batch_tokens=1024, recompute=recompute, precision="fp32")
    code = MEASURE.replace("RECOMPUTE", recompute)
    measured = int(run_python(code, MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536"))
    expected = activations(small, layout, fused=False)
    if recompute == "selective":  # the layer that is whole again is so in the backward pass
        one = replace(small, num_hidden_layers=1), replace(layout, recompute="none")
        expected -= activations(*one, fused=False) - 1024 * 2 * 4 * small.hidden_size
    assert expected == pytest.approx(measured, rel=0.1)
