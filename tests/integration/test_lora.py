"""Adapters under DeepSpeed: only they are optimised, at every ZeRO stage alike, and a killed training goes on with them."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from faults import complete_checkpoints, finish, kill, wait_for, weights
from pico import Lab

from tokenmill.model.config import InternLM2Config
from tokenmill.model.lora import ADAPTER, adapters, merge_adapter, trainable
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.model.weights import read_state
from tokenmill.pretraining.config import TokenizeConfig
from tokenmill.sft.config import SFTTrainConfig
from tokenmill.steps.files import materialise
from tokenmill.store import open_store
from tokenmill.training.data import PackedBatches, Sample, Samples, next_token_loss
from tokenmill.training.engine import Engine
from tokenmill.training.run import TrainingRun
from tokenmill.training.settings import LoRAConfig, OptimConfig, TrainingConfig, TrainingExecution

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]
CONTEXT, RANKS, STEPS, EVERY = 32, 2, 16, 4


def three_steps(rank, zero_stage):
    """The loss before the last of three steps, the adapters then, and how many numbers Adam keeps on both ranks."""
    samples = [Sample(list(range(3 + i, 30 + i))) for i in range(24)]
    batches = PackedBatches(Samples.of(samples), CONTEXT, 4, seed=1, micro_batch_tokens=2 * CONTEXT)
    model = InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export = trainable(model, LoRAConfig(rank=4), seed=1)
    run = TrainingRun(model, batches, next_token_loss, OptimConfig(lr=0.01), export=export)
    config = TrainingConfig(precision="fp32", execution=TrainingExecution(zero_stage=zero_stage))
    engine = Engine(run, config, batches.accumulation(RANKS), regrouped=False)
    for step in range(3):
        share = batches.at(step, rank, RANKS)
        loss = torch.tensor(engine.step(step, share.micro_batches, share.weight)["loss"])
    dist.all_reduce(loss)
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    kept = torch.tensor(sum(state["exp_avg"].numel() for state in inner.state.values()))
    dist.all_reduce(kept)
    learned = torch.cat([p.detach().flatten() for _, m in adapters(model) for p in (m.lora_a, m.lora_b)])
    now = model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items()), "a frozen weight moved"
    return float(loss), learned, int(kept)


def compare(rank, root):
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=RANKS)
    loss, expected, kept = three_steps(rank, 0)
    assert kept == RANKS * expected.numel()  # stage 0: every rank keeps all of the adapters' moments, and no others
    assert float(expected.abs().max()) > 0
    for stage in (1, 2):
        again, learned, kept = three_steps(rank, stage)
        assert abs(again - loss) < 1e-4 * abs(loss) and torch.allclose(learned, expected, atol=1e-6)
        assert expected.numel() <= kept <= expected.numel() + 64  # padding, so that ranks have equal shares
    dist.barrier()
    dist.destroy_process_group()


def test_only_adapters_are_optimised_at_zero_0_1_and_2_alike(tmp_path):
    torch.multiprocessing.spawn(compare, (tmp_path,), nprocs=RANKS)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lora"))
    domain = lab.decontaminated(lab.corpus)
    inputs = {"corpus": domain["corpus"], "tokenizer": lab.tokenizer}
    tokens = lab.step("pretraining.tokenize", TokenizeConfig(heldout_share=0.1), **inputs)["output"]
    base = lab.weights(counts={"tokens_seen": 1000, "steps": 2})
    given = {"tokens": tokens, "base": base, "decontamination": domain["decontamination"], "rehearsal": tokens}
    return lab, {role: manifest.digest for role, manifest in given.items()}


def start(folder, inputs, *settings):
    lora = [
        "lora.rank=4",
        "lora.dropout=0.1",
        f"tokens={512 * STEPS}",
        f"execution.checkpoint_every={EVERY}",
        *settings,
    ]
    command = [sys.executable, "-m", "tokenmill.cli", "step", "enhancement.enhance", "--preset", "pico", "--json"]
    command += [part for role, digest in inputs.items() for part in ("--input", f"{role}={digest}")]
    command += [part for one in lora for part in ("--set", f"enhancement.enhance.{one}")]
    env = os.environ | {"TOKENMILL_STORE": f"file://{folder}", "TOKENMILL_LEASE_TTL_S": "4"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True)


def test_a_killed_training_of_adapters_goes_on_and_its_model_is_merged(prepared, tmp_path):
    lab, inputs = prepared
    for name in ("calm", "killed"):
        shutil.copytree(lab.folder / "store", tmp_path / name)
    calm = finish(start(tmp_path / "calm", inputs))
    process = start(tmp_path / "killed", inputs)
    wait_for(lambda: complete_checkpoints(tmp_path / "killed"), "a checkpoint")
    kill(tmp_path / "killed", process)
    again = finish(start(tmp_path / "killed", inputs))
    assert again["weights"] == calm["weights"]

    whole = weights(tmp_path / "calm", calm)
    old = weights(tmp_path / "calm", {"weights": inputs["base"]})
    assert set(whole) == set(old)  # nobody who reads it sees that it was adapted
    moved = {name for name in whole if (whole[name] != old[name]).any()}
    assert moved == {name for name in old if name.split(".")[-2] in {"wqkv", "wo", "w1", "w2", "w3"}}

    store = open_store(f"file://{tmp_path}/calm")
    adapter = materialise(store, store.get_manifest(calm["weights"]), tmp_path / "weights") / ADAPTER
    command = [sys.executable, "-m", "tokenmill.cli", "model", "merge", inputs["base"], adapter, tmp_path / "merged"]
    command += ["--store", store.uri, "--layout", "internlm2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["changed"] == 14
    merged = read_state(tmp_path / "merged")
    assert all(torch.allclose(merged[name], torch.from_numpy(tensor), atol=1e-6) for name, tensor in whole.items())


def test_fine_tuning_trains_adapters_on_conversations_and_leaves_the_sum_and_the_adapter(tmp_path):
    lab = Lab(tmp_path)
    base = lab.weights(counts={"tokens_seen": 1000})
    optim = OptimConfig(lr=0.01, warmup_ratio=0.0)
    one = TrainingExecution(ranks=1, checkpoint_every=100)
    config = SFTTrainConfig(
        context=CONTEXT, packs_per_step=4, pretraining_share=0, precision="fp32", optim=optim, execution=one,
        lora=LoRAConfig(rank=4, targets=("wqkv", "wo")),
    )  # fmt: skip
    inputs = {"conversations": lab.conversations, "base": base, "tokenizer": lab.tokenizer}
    made = lab.step("sft.train", config, **inputs)["weights"]
    old, new = (read_state(materialise(lab.store, m, tmp_path / m.digest[:8])) for m in (base, made))
    moved = {name.split(".")[-2] for name in new if not torch.equal(new[name], old[name])}
    assert moved == {"wqkv", "wo"}
    done = tokenmill_model("adapter", made.digest, tmp_path / "adapter", "--store", lab.store.uri)
    assert "adapter_config.json, adapter_model.safetensors" in done.stdout, done.stderr
    assert merge_adapter(tmp_path / base.digest[:8], tmp_path / "adapter", tmp_path / "sum") == 8
    merged = read_state(tmp_path / "sum")
    assert set(merged) == set(new)
    assert all(torch.allclose(merged[name], new[name], atol=1e-6) for name in new)
    done = tokenmill_model("adapter", base.digest, tmp_path / "none", "--store", lab.store.uri)
    assert done.returncode == 2 and "has no adapter" in done.stderr


def tokenmill_model(*arguments):
    command = [sys.executable, "-m", "tokenmill.cli", "model", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
