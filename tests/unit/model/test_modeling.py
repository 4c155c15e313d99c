"""The architecture against spec tables, small hand-made cases and independent formulas."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tokenmill.errors import InputError
from tokenmill.model import IGNORE, losses
from tokenmill.model.attention import attention
from tokenmill.model.layout import merge_wqkv, split_wqkv
from tokenmill.model.losses import token_losses
from tokenmill.model.modeling import (
    Attention,
    InternLM2Critic,
    InternLM2ForCausalLM,
    InternLM2ForRewardModel,
    RMSNorm,
    initialize,
    positions_of,
    rotate,
    rotation,
)

IDS = torch.tensor([5, 9, 200, 31, 77, 3, 8, 8, 1, 250, 12, 40])
BORDERS = torch.tensor([0, 4, 5, 12], dtype=torch.int32)


def test_wqkv_row_map_of_the_toy_case():
    """kv=2, g=2, head_dim=1: the queries are rows 0 1 4 5, the keys 2 6, the values 3 7."""
    q, k, v = split_wqkv(torch.arange(8.0)[:, None], kv_heads=2, q_per_kv=2, head_dim=1)
    assert [x.flatten().tolist() for x in (q, k, v)] == [[0, 1, 4, 5], [2, 6], [3, 7]]
    assert merge_wqkv(q, k, v, kv_heads=2, q_per_kv=2, head_dim=1).flatten().tolist() == list(range(8))


def test_wqkv_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"8 rows, not 2 KV heads × \(3 queries"):
        split_wqkv(torch.zeros(8, 1), kv_heads=2, q_per_kv=3, head_dim=1)
    with pytest.raises(InputError, match=r"\(4, 1, 1\) rows, not \(4, 2, 2\)"):
        merge_wqkv(torch.zeros(4, 1), torch.zeros(1, 1), torch.zeros(1, 1), kv_heads=2, q_per_kv=2, head_dim=1)


def test_attention_reads_the_same_rows(grouped):
    """The module itself, with a Wqkv that writes each row's number: what reaches the kernel are those rows."""
    layer, seen = Attention(grouped, layer=0), {}
    rows = grouped.num_key_value_heads * 4 * grouped.head_dim
    with torch.no_grad():
        layer.wqkv.weight.copy_(torch.arange(float(rows))[:, None].expand(-1, grouped.hidden_size))
        layer.wo.weight.zero_()

    def attend(index, q, k, v):
        seen.update(q=q, k=k, v=v)
        return torch.zeros_like(q)

    still = rotation(torch.zeros(1), 1e4, grouped.head_dim)  # position 0: no rotation
    layer(F.one_hot(torch.tensor([0]), grouped.hidden_size).float(), still, attend)
    shape = grouped.num_key_value_heads, grouped.queries_per_kv, grouped.head_dim
    expected = split_wqkv(torch.arange(float(rows))[:, None], *shape)
    for name, rows_read in zip("qkv", expected, strict=True):
        assert torch.equal(seen[name].flatten(), rows_read.flatten()), name


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_tensor_parallel_ranks_are_slices(ranks):
    """Contiguous rows of Wqkv and columns of Wo, summed over ranks, are the whole layer (spec §13, check 2: to 1e-6)."""
    from tokenmill.model.config import InternLM2Config

    whole = InternLM2Config(hidden_size=64, num_attention_heads=8, num_key_value_heads=4, head_dim=8, vocab_size=128)
    torch.manual_seed(0)
    x, rope = torch.randn(12, 64).double(), rotation(positions_of(BORDERS), 5e4, 8)
    layer = Attention(whole, layer=0).double()
    torch.nn.init.normal_(layer.wqkv.weight, std=64**-0.5)
    torch.nn.init.normal_(layer.wo.weight, std=64**-0.5)

    def attend(_, q, k, v):
        return attention(q, k, v, BORDERS, 7)

    total = torch.zeros(12, 64).double()
    for wqkv, wo in zip(layer.wqkv.weight.chunk(ranks), layer.wo.weight.chunk(ranks, dim=1), strict=True):
        rank = Attention(whole, layer=0)
        rank.groups = whole.num_key_value_heads // ranks
        rank.wqkv.weight, rank.wo.weight = torch.nn.Parameter(wqkv), torch.nn.Parameter(wo)
        total += rank(x, rope, attend)
    torch.testing.assert_close(total, layer(x, rope, attend), atol=1e-6, rtol=0)


def test_rotation_turns_pairs_half_a_head_apart():
    """As complex numbers: (x_i + j·x_{i+d/2}) · e^{j·position·θ^(−2i/d)}."""
    torch.manual_seed(0)
    x, positions = torch.randn(6, 1, 3, 8), torch.tensor([0, 1, 2, 0, 1, 4000])
    turned = rotate(x, rotation(positions, 5e4, 8))
    angles = positions[:, None].double() * 5e4 ** (-torch.arange(4).double() * 2 / 8)
    expected = torch.complex(*x.double().chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)[:, None, None]
    torch.testing.assert_close(turned.double(), torch.cat((expected.real, expected.imag), -1), atol=1e-3, rtol=1e-4)


def test_norm_keeps_its_statistics_in_fp32():
    torch.manual_seed(0)
    norm, x = RMSNorm(512, 1e-5).bfloat16(), (torch.randn(4, 512) * 300).bfloat16()
    expected = x.double() / (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x).double(), expected, atol=0.01, rtol=2**-8)


def test_tensor_names_are_the_released_ones(grouped):
    names = {name for name, _ in InternLM2ForCausalLM(grouped, seed=None).named_parameters()}
    parts = [
        "attention.wqkv",
        "attention.wo",
        "feed_forward.w1",
        "feed_forward.w2",
        "feed_forward.w3",
        "attention_norm",
        "ffn_norm",
    ]
    layers = {f"model.layers.{i}.{part}.weight" for i in range(2) for part in parts}
    assert names == layers | {"model.tok_embeddings.weight", "model.norm.weight", "output.weight"}
    reward = {name for name, _ in InternLM2ForRewardModel(grouped, seed=None).named_parameters()}
    assert reward - names == {"v_head.weight"}


def test_initialisation_by_layer_and_seed(grouped):
    wide = replace(grouped, hidden_size=256, head_dim=64, intermediate_size=1024, vocab_size=2048)
    model = InternLM2ForCausalLM(wide, seed=3)
    for name, weight in model.named_parameters():
        expected = 0.02
        if "norm" in name:
            assert torch.equal(weight, torch.ones_like(weight))
            continue
        if name.endswith(("wo.weight", "w2.weight")):
            expected /= (2 * (int(name.split(".")[2]) + 1)) ** 0.5  # 0.01414 in layer 0, 0.01 in layer 1
        assert weight.std().item() == pytest.approx(expected, rel=0.02), name
        assert abs(weight.mean().item()) < 1e-3

    torch.rand(5)  # the process's own random state plays no part
    again, other = InternLM2ForCausalLM(wide, seed=3), InternLM2ForCausalLM(wide, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(model.output.weight, other.output.weight)


def test_making_a_model_leaves_global_randomness_alone(grouped):
    before = torch.get_rng_state()
    InternLM2ForCausalLM(grouped)
    assert torch.equal(before, torch.get_rng_state())


def test_a_packed_sample_sees_only_itself(model):
    packed = model(IDS, BORDERS)
    apart = torch.cat([model(sample) for sample in IDS.tensor_split(BORDERS[1:-1].tolist())])
    torch.testing.assert_close(packed, apart, atol=1e-4, rtol=1e-4)
    changed = IDS.clone()
    changed[5:] = 99
    assert torch.equal(model(changed, BORDERS)[:5], packed[:5])
    assert not torch.allclose(model(changed, BORDERS)[5:], packed[5:])


def test_a_stream_that_is_filled_up_gives_what_its_parts_give(grouped):
    """700 tokens are computed as 768: neither the states nor the gradients know of the others."""
    model = InternLM2ForCausalLM(grouped, seed=7)
    ids = torch.arange(700) * 7 % 256
    borders = torch.tensor([0, 50, 113, *range(150, 701, 50)], dtype=torch.int32)
    labels, gradients = ids.roll(-1), []
    for streams in (
        [(ids, labels, borders)],
        [(i, t, None) for i, t in zip(*parts(borders, ids, labels), strict=True)],
    ):
        model.zero_grad()
        losses = torch.cat([model(one, cu_seqlens, labels=target) for one, target, cu_seqlens in streams])
        assert len(losses) == 700
        losses.sum().backward()
        gradients.append([losses.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    for together, apart in zip(*gradients, strict=True):
        torch.testing.assert_close(together, apart, atol=2e-4, rtol=1e-4)


def parts(borders, *streams):
    return [stream.tensor_split(borders[1:-1].tolist()) for stream in streams]


def test_given_positions_matter(model):
    """A negative control of the test above: with running positions inside the pack, the samples' logits move."""
    assert not torch.allclose(model(IDS, BORDERS, torch.arange(12) * 3), model(IDS, BORDERS), atol=1e-3)


def test_dynamic_ntk_reaches_the_forward_pass(grouped, model):
    long = torch.arange(200) % 256
    scaled = InternLM2ForCausalLM(replace(grouped, rope_scaling={"type": "dynamic", "factor": 2.0}), seed=None)
    scaled.load_state_dict(model.state_dict())
    torch.testing.assert_close(scaled(long[:64]), model(long[:64]))
    assert not torch.allclose(scaled(long), model(long), atol=1e-3)


@pytest.mark.parametrize("kept", [0, 1000, 1 << 20], ids=lambda size: f"keeping {size} bytes")
@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_token_losses_and_gradients_equal_cross_entropy(chunk, kept, monkeypatch):
    monkeypatch.setattr(losses, "KEPT_BYTES", kept)
    torch.manual_seed(0)
    hidden, weight = torch.randn(12, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    labels = torch.randint(0, 50, (12,))
    labels[[0, 4, 11]] = IGNORE
    scale = torch.randn(12)  # PPO weighs tokens unequally: the backward pass must respect it
    expected = F.cross_entropy(hidden @ weight.T, labels, reduction="none", ignore_index=IGNORE)
    d_expected = torch.autograd.grad((expected * scale).sum(), (hidden, weight))
    given = token_losses(hidden, weight, labels, chunk)
    d_given = torch.autograd.grad((given * scale).sum(), (hidden, weight))
    torch.testing.assert_close(given, expected)
    torch.testing.assert_close(d_given, d_expected)
    assert given[0] == 0


def test_losses_of_nothing_are_zero_and_differentiable():
    hidden = torch.randn(3, 4, requires_grad=True)
    given = token_losses(hidden, torch.randn(9, 4), torch.full((3,), IGNORE))
    given.sum().backward()
    assert given.tolist() == [0, 0, 0]
    assert hidden.grad.abs().sum() == 0


def test_forward_with_labels_is_the_loss_of_its_logits(model):
    labels = IDS.roll(-1)
    expected = F.cross_entropy(model(IDS, BORDERS), labels, reduction="none")
    torch.testing.assert_close(model(IDS, BORDERS, labels=labels), expected, atol=1e-4, rtol=1e-4)


class Counted(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


PRODUCTS = "aten::mm", "mkldnn::_linear_pointwise"
"""Of few rows and of many, on a CPU."""


def backward_of(grouped, recompute, copies):
    """Gradients, operations of the backward pass and how many of them are matrix products."""
    model = InternLM2ForCausalLM(grouped)
    model.model.recompute = recompute
    borders = torch.cat((BORDERS[:1], *(BORDERS[1:] + len(IDS) * n for n in range(copies))))
    loss = model(IDS.repeat(copies), borders, labels=IDS.roll(-1).repeat(copies)).sum()
    with Counted() as counted:
        loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return gradients, counted.counts, sum(counted.counts[product] for product in PRODUCTS)


@pytest.mark.parametrize("copies", [1, 64])
def test_recompute_changes_no_gradient_and_repeats_what_it_says(grouped, copies):
    (kept, without, products), *others = (backward_of(grouped, how, copies) for how in ("none", "selective", "full"))
    assert bool(without[PRODUCTS[1]]) == (copies > 1 and torch.backends.mkldnn.is_available())
    for gradients, *_ in others:
        assert all(torch.equal(a, b) for a, b in zip(kept, gradients, strict=True))
    (_, selective, of_selective), (_, full, of_full) = others
    layers = grouped.num_hidden_layers
    assert of_selective == products
    # wqkv, wo, w1, w3; nobody needs what w2 gave, but oneDNN's says what it keeps once it has computed
    assert of_full == products + (5 if without[PRODUCTS[1]] else 4) * layers
    assert without["aten::silu"] == 0 < layers == selective["aten::silu"] == full["aten::silu"]
    attention = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert selective[attention] == 0 < full[attention] == layers * copies * (len(BORDERS) - 1)


def test_reward_is_read_where_asked(grouped):
    reward = InternLM2ForRewardModel(grouped, seed=1)
    everywhere = reward(IDS, BORDERS)
    assert everywhere.shape == (12,)
    torch.testing.assert_close(reward(IDS, BORDERS, at=torch.tensor([3, 4, 11])), everywhere[[3, 4, 11]])
    hidden = reward.model.packed(IDS, BORDERS)
    torch.testing.assert_close(everywhere, hidden @ reward.v_head.weight[0])


def test_fresh_head_leaves_the_body(grouped):
    critic = InternLM2Critic(grouped, seed=1)
    before = {name: tensor.clone() for name, tensor in critic.state_dict().items()}
    initialize(critic, seed=2, head_only=True)
    changed = [name for name, tensor in critic.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["v_head.weight"]
    assert critic.v_head.weight.abs().sum() > 0
