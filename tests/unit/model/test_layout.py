"""Folders of weights: ours, LLaMA's, sharded, a part a rank, and what is refused."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from tokenmill.errors import ConfigError, CorruptError, InputError, StepFailed
from tokenmill.model.attention import attention
from tokenmill.model.config import InternLM2Config
from tokenmill.model.folder import (
    copy_checkpoint,
    export_llama,
    load_model,
    read_checkpoint,
    read_config,
    reshard,
    save_model,
)
from tokenmill.model.layout import fit_vocabulary
from tokenmill.model.modeling import (
    Attention,
    FeedForward,
    InternLM2Critic,
    InternLM2ForCausalLM,
    InternLM2ForRewardModel,
    positions_of,
    rotation,
)
from tokenmill.model.tensor_parallel import shard, unshard
from tokenmill.model.weights import INDEX, read_shapes, read_state

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


def test_llama_round_trip_is_exact(model, saved, tmp_path):
    export_llama(saved, tmp_path / "llama")
    (config, back), state = read_checkpoint(tmp_path / "llama"), model.state_dict()
    assert config == read_config(tmp_path / "llama") == model.config
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_reward_model_goes_out_as_llamas_and_comes_back(model, saved, tmp_path):
    from transformers import LlamaForSequenceClassification

    reward = load_model(saved, InternLM2ForRewardModel, fresh_head=5)
    save_model(reward, tmp_path / "reward")
    export_llama(tmp_path / "reward", tmp_path / "llama")
    theirs = LlamaForSequenceClassification.from_pretrained(tmp_path / "llama", attn_implementation="eager")
    with torch.no_grad():
        score = theirs(IDS[None]).logits
    torch.testing.assert_close(score.flatten(), reward(IDS)[-1:], atol=1e-4, rtol=1e-4)
    values = json.loads((tmp_path / "llama" / "config.json").read_text())
    assert (values["num_labels"], values["problem_type"]) == (1, "regression")
    copy_checkpoint(tmp_path / "llama", tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["architectures"] == ["InternLM2ForRewardModel"]
    back = load_model(tmp_path / "back", InternLM2ForRewardModel)
    assert all(torch.equal(p, dict(reward.named_parameters())[name]) for name, p in back.named_parameters())


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_a_llama_written_by_transformers_is_read(tmp_path, shard_size):
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
    llama.save_pretrained(tmp_path / "llama", max_shard_size=shard_size)
    assert (tmp_path / "llama" / INDEX).exists() == (shard_size == "20KB")
    ours = load_model(tmp_path / "llama")
    assert (ours.config.rope_theta, ours.config.queries_per_kv) == (77_000.0, 3)
    ids = IDS % 128
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), llama(ids[None]).logits[0], atol=1e-5, rtol=1e-5)


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


def test_weights_beyond_the_limit_are_sharded_with_an_index(model, tmp_path):
    """20 kB a file, as an embedding of 64 kB must lie in one: it has its own. The index is what Hugging Face writes."""
    save_model(model, tmp_path, max_shard_bytes=20_000)
    index = json.loads((tmp_path / INDEX).read_text())
    state = model.state_dict()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in state.values())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)]
    assert {file.name for file in tmp_path.iterdir()} == {*files, INDEX, "config.json"}
    for file in files:
        with safe_open(tmp_path / file, "pt") as opened:
            names = set(opened.keys())
        assert names == {name for name, place in index["weight_map"].items() if place == file}
        assert len(names) == 1 or sum(state[name].nbytes for name in names) <= 20_000
    loaded = load_model(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert read_shapes(tmp_path) == {name: (tuple(tensor.shape), "F32") for name, tensor in state.items()}


def test_transformers_reads_a_sharded_export(model, saved, tmp_path):
    from transformers import LlamaForCausalLM

    export_llama(saved, tmp_path / "llama", max_shard_bytes=20_000)
    assert (tmp_path / "llama" / INDEX).exists()
    llama = LlamaForCausalLM.from_pretrained(tmp_path / "llama", attn_implementation="eager")
    with torch.no_grad():
        torch.testing.assert_close(llama(IDS[None]).logits[0], model(IDS), atol=1e-4, rtol=1e-4)
        assert torch.equal(load_model(tmp_path / "llama")(IDS), model(IDS))


def test_writing_again_leaves_no_file_of_before(model, tmp_path):
    save_model(model, tmp_path, max_shard_bytes=20_000)
    save_model(model, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"model.safetensors", "config.json"}
    save_model(model, tmp_path, max_shard_bytes=20_000)
    assert not (tmp_path / "model.safetensors").exists()
    assert load_model(tmp_path).config == model.config


@pytest.mark.parametrize("layout", ["internlm2", "llama"])
def test_what_is_wrong_with_sharded_weights_is_said(model, saved, tmp_path, layout):
    export_llama(saved, tmp_path / "llama", max_shard_bytes=20_000)
    save_model(model, tmp_path / "internlm2", max_shard_bytes=20_000)
    folder = tmp_path / layout
    last = sorted(folder.glob("model-*"))[-1]
    last.rename(folder / "elsewhere")
    with pytest.raises(InputError, match=rf"lacks {last.name}, which its index names for \d+ tensor"):
        load_model(folder)
    (folder / "elsewhere").rename(last)
    index = (folder / INDEX).read_text()
    (folder / INDEX).unlink()
    with pytest.raises(InputError, match=r"and neither model\.safetensors nor model\.safetensors\.index\.json"):
        load_model(folder)
    whole = json.loads(index)
    norm = (
        "model.layers.1.ffn_norm.weight" if layout == "internlm2" else "model.layers.1.post_attention_layernorm.weight"
    )
    lost = whole | {"weight_map": {name: file for name, file in whole["weight_map"].items() if name != norm}}
    (folder / INDEX).write_text(json.dumps(lost))
    with pytest.raises(CorruptError, match=r"model\.layers\.1\.ffn_norm\.weight is missing"):
        load_model(folder)
    moved = whole | {"weight_map": whole["weight_map"] | {norm: min(whole["weight_map"].values())}}
    (folder / INDEX).write_text(json.dumps(moved))
    with pytest.raises(CorruptError, match=f"does not hold {norm}"):
        load_model(folder)
    outside = whole | {"weight_map": {norm: "../model.safetensors"}}
    (folder / INDEX).write_text(json.dumps(outside))
    with pytest.raises(CorruptError, match="not a file of its folder"):
        load_model(folder)
    (folder / INDEX).write_text("[]")
    with pytest.raises(CorruptError, match="not an index"):
        load_model(folder)


def test_a_llama_that_lacks_a_part_is_not_taken_for_tied(saved, tmp_path):
    export_llama(saved, tmp_path)
    state = read_state(tmp_path)
    output = state.pop("lm_head.weight")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CorruptError, match=r"output\.weight is missing"):
        load_model(tmp_path)
    del state["model.layers.0.self_attn.k_proj.weight"]
    save_file(state | {"lm_head.weight": output}, tmp_path / "model.safetensors")
    with pytest.raises(CorruptError, match=r"layers\.0\.self_attn\.k_proj\.weight is missing"):
        load_model(tmp_path)


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
    assert read_config(saved) == model.config


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model_type": "gpt2"}, ConfigError, "it must be an InternLM2, or a LLaMA.* model_type 'gpt2'"),
        ({"model_type": "llama", "attention_bias": True}, ConfigError, "without biases"),
        ({"model_type": "llama", "rope_scaling": {"rope_type": "llama3"}}, ConfigError, "without .*RoPE scaling"),
        ({"model_type": "llama", "hidden_act": "gelu"}, ConfigError, "with SiLU"),
        ({"intermediate_size": None}, CorruptError, "does not say the model's intermediate_size"),
        ({"bias": True}, ConfigError, "no biases"),
    ],
)
def test_a_model_that_is_no_internlm2_is_refused(saved, change, error, said):
    values = json.loads((saved / "config.json").read_text()) | change
    (saved / "config.json").write_text(json.dumps(values))
    with pytest.raises(error, match=said):
        load_model(saved)


def test_a_config_that_is_no_json_is_refused(saved):
    (saved / "config.json").write_text("{")
    with pytest.raises(CorruptError, match=r"config\.json is not a JSON object"):
        load_model(saved)


@pytest.mark.parametrize(("fault", "said"), [(torch.empty(0), "is empty"), (torch.tensor([1.0, torch.nan]), "finite")])
def test_unsound_weights_are_not_written(grouped, tmp_path, fault, said):
    model = InternLM2ForCausalLM(grouped, seed=1)
    model.model.norm.weight.data = fault
    with pytest.raises(StepFailed, match=rf"model\.norm\.weight .*{said}"):
        save_model(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_rows_of_new_ids_are_the_mean_and_change_little_of_what_the_model_says(model):
    """By Jensen's inequality the new ids take at most (384−200)/200 of the old ones' mass."""
    config, state = fit_vocabulary(model.config, model.state_dict(), size=384, known=200)
    fitted = InternLM2ForCausalLM(config, seed=None)
    fitted.load_state_dict(state)
    for name in ("model.tok_embeddings.weight", "output.weight"):
        rows = model.state_dict()[name]
        assert torch.equal(state[name][:200], rows[:200])
        torch.testing.assert_close(state[name][200:], rows[:200].mean(0).expand(184, -1))
    ids = IDS % 200
    before, after = model(ids), fitted(ids)
    torch.testing.assert_close(after[:, :200], before[:, :200])
    mass = after.softmax(-1)[:, 200:].sum(-1) / after.softmax(-1)[:, :200].sum(-1)
    assert mass.max() <= 184 / 200
    assert fit_vocabulary(model.config, state, 256, 256)[0] == model.config
    with pytest.raises(InputError, match="a model of 256 rows, 200 of them learned, cannot have 128"):
        fit_vocabulary(model.config, model.state_dict(), size=128, known=200)


# ---- tensor parallelism ----------------------------------------------------------------------------------------------

FOUR_GROUPS = InternLM2Config(
    vocab_size=256,
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=8,
    intermediate_size=96,
    max_position_embeddings=64,
)


@pytest.fixture(scope="module")
def whole():
    """In double precision, with weights that keep activations of the size of their inputs: 1e-6 says something."""
    model = InternLM2ForCausalLM(FOUR_GROUPS, seed=3).double()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 0.1 if "norm" in name else weight.shape[-1] ** -0.5
            weight.copy_(("norm" in name) + scale * torch.randn(weight.shape, generator=draw, dtype=torch.float64))
    return model


def in_parallel(shards, config, ids, cu_seqlens):
    """Logits of a model whose ranks hold `shards`: partial outputs are summed as an all-reduce would, logits gathered.

    Every rank runs our own attention and feed-forward modules, of its own size, on its own weights.
    """
    tp, f64 = len(shards), torch.float64
    rope = rotation(positions_of(cu_seqlens), config.rope_theta, config.head_dim)

    def attend(_, q, k, v):
        return attention(q, k, v, cu_seqlens, len(ids))

    def part(module, rank, prefix):
        for name, linear in module.named_children():
            linear.weight = torch.nn.Parameter(rank[f"{prefix}{name}.weight"])
        return module

    def norm(x, name):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps)
        assert all(torch.equal(rank[name], shards[0][name]) for rank in shards)
        return x * scale * shards[0][name]

    rows = config.vocab_size // tp
    x = torch.zeros(len(ids), config.hidden_size, dtype=f64)
    for number, rank in enumerate(shards):  # each rank looks up the tokens of its own rows
        mine = (ids // rows == number)[:, None]
        x += torch.where(mine, rank["model.tok_embeddings.weight"][ids % rows], 0)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        normed, total = norm(x, prefix + "attention_norm.weight"), torch.zeros_like(x)
        for rank in shards:
            module = Attention(config, layer)
            module.groups = config.num_key_value_heads // tp
            total += part(module, rank, prefix + "attention.")(normed, rope, attend)
        x = x + total
        normed = norm(x, prefix + "ffn_norm.weight")
        x = x + sum(part(FeedForward(config), rank, prefix + "feed_forward.")(normed) for rank in shards)
    final = norm(x, "model.norm.weight")
    return torch.cat([final @ rank["output.weight"].T for rank in shards], dim=-1)


@pytest.mark.parametrize("tp", [1, 2, 4])
@torch.no_grad()
def test_ranks_together_give_the_whole_models_logits(whole, tp):
    shards = [shard(whole.state_dict(), FOUR_GROUPS, tp, rank) for rank in range(tp)]
    borders = torch.tensor([0, 4, 5, 12], dtype=torch.int32)
    expected = whole(IDS, borders)
    assert expected.std() > 0.5
    torch.testing.assert_close(in_parallel(shards, FOUR_GROUPS, IDS, borders), expected, atol=1e-6, rtol=0)
    if tp > 1:  # the negative control: two ranks exchanged
        shards[0], shards[1] = shards[1], shards[0]
        assert not torch.allclose(in_parallel(shards, FOUR_GROUPS, IDS, borders), expected, atol=1e-2)


@pytest.mark.parametrize("tp", [2, 4])
def test_a_rank_owns_contiguous_rows(whole, tp):
    """Spec §3.2: rank r of t owns rows [r·R/t, (r+1)·R/t) of Wqkv; Wo is cut along its input."""
    state, name = whole.state_dict(), "model.layers.1.attention."
    rows, columns = 4 * 4 * 8 // tp, 64 // tp
    for rank in range(tp):
        part = shard(state, FOUR_GROUPS, tp, rank)
        mine = slice(rank * rows, (rank + 1) * rows)
        assert torch.equal(part[name + "wqkv.weight"], state[name + "wqkv.weight"][mine])
        assert torch.equal(
            part[name + "wo.weight"], state[name + "wo.weight"][:, rank * columns : (rank + 1) * columns]
        )
        assert part["model.norm.weight"].shape == (64,)


@st.composite
def divisible(draw):
    """A model of any small shape, and a degree that divides it."""
    tp, kv, queries = draw(st.sampled_from([1, 2, 3, 4, 8])), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kv, head_dim = kv * tp, 2 * draw(st.integers(1, 3))
    config = InternLM2Config(
        vocab_size=tp * draw(st.integers(1, 20)),
        hidden_size=kv * queries * head_dim,
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=kv * queries,
        num_key_value_heads=kv,
        head_dim=head_dim,
        intermediate_size=tp * draw(st.integers(1, 20)),
    )
    return config, tp, draw(st.sampled_from([InternLM2ForCausalLM, InternLM2ForRewardModel]))


@settings(max_examples=60)
@given(case=divisible())
def test_unshard_is_the_inverse_of_shard(case):
    config, tp, cls = case
    state = cls(config, seed=1).state_dict()
    shards = [shard(state, config, tp, rank) for rank in range(tp)]
    back = unshard(shards, config)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    cut = sum(tensor.numel() for part in shards for name, tensor in part.items() if "norm" not in name)
    assert cut == sum(
        tensor.numel() * (tp if "v_head" in name else 1) for name, tensor in state.items() if "norm" not in name
    )


@pytest.mark.parametrize("tp", [0, 3, 8])
def test_a_degree_that_does_not_divide_the_model_is_refused_in_one_line(whole, tp):
    with pytest.raises(ConfigError, match=rf"degree of {tp} does not divide 4 KV heads.*: use 1, 2, 4$"):
        shard(whole.state_dict(), FOUR_GROUPS, tp, 0)


def test_a_rank_beyond_the_last_is_refused(whole):
    with pytest.raises(ConfigError, match="no rank 2 of 2"):
        shard(whole.state_dict(), FOUR_GROUPS, 2, 2)


def test_ranks_that_do_not_belong_together_are_refused(whole):
    state = whole.state_dict()
    first, second = (shard(state, FOUR_GROUPS, 2, rank) for rank in range(2))
    with pytest.raises(CorruptError, match="different model.norm.weight"):
        unshard([first, second | {"model.norm.weight": torch.zeros(64)}], FOUR_GROUPS)
    with pytest.raises(CorruptError, match="not every rank holds output.weight"):
        unshard([first, {name: t for name, t in second.items() if name != "output.weight"}], FOUR_GROUPS)
    with pytest.raises(CorruptError, match="128 rows of the embedding, not 256"):
        unshard([first], FOUR_GROUPS)


def test_reshard_writes_a_folder_a_rank_and_any_degree_comes_back(whole, tmp_path):
    state = whole.state_dict()
    save_model(whole, tmp_path / "1")
    reshard(tmp_path / "1", tmp_path / "4", 4, max_shard_bytes=20_000)
    assert sorted(p.name for p in (tmp_path / "4").iterdir()) == ["config.json", *(f"tp-{r}-of-4" for r in range(4))]
    assert (tmp_path / "4" / "tp-0-of-4" / INDEX).exists()
    reshard(tmp_path / "4", tmp_path / "2", 2)
    assert all(torch.equal(a, state[name]) for name, a in load_model(tmp_path / "2").state_dict().items())
    reshard(tmp_path / "2", tmp_path / "back", 1)
    assert {f.name: f.read_bytes() for f in (tmp_path / "back").iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "1").iterdir()
    }
    (tmp_path / "2" / "tp-1-of-2").rename(tmp_path / "lost")
    with pytest.raises(InputError, match="every rank .* it has tp-0-of-2"):
        load_model(tmp_path / "2")
