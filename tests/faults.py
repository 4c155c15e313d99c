"""Trainings of a toy corpus as processes of their own, to be disturbed."""

import os
import shutil
import signal
import subprocess
import sys
import time

import orjson
import psutil
import safetensors.numpy
import toy

from tokenmill.records import read_jsonl
from tokenmill.store import open_store

STEPS, EVERY = 24, 4
SETTINGS = [
    f"pretraining.pretrain.short.tokens={512 * STEPS}",
    f"pretraining.pretrain.short.execution.checkpoint_every={EVERY}",
]


def stocked(root):
    """A store with tokens."""
    tokens, tokenizer = toy.tokens(open_store(f"file://{root}/store"))
    return root, [f"tokens={tokens.digest}", f"tokenizer={tokenizer.digest}"]


def prepare(root):
    """A store with tokens, and what an undisturbed training of them gives."""
    root, inputs = stocked(root)
    shutil.copytree(root / "store", root / "calm")
    return root, inputs, finish(start(root / "calm", inputs))


def layout(ranks, zero):
    execution = "pretraining.pretrain.short.execution"
    return f"{execution}.ranks={ranks}", f"{execution}.zero_stage={zero}"


def start(folder, inputs, ranks=2, zero=1, settings=(), env=None):
    """A training step; `env` is put on top of the environment."""
    command = [
        sys.executable,
        "-m",
        "tokenmill.cli",
        "step",
        "pretraining.pretrain.short",
        "--preset",
        "pico",
        "--json",
    ]
    command += [part for one in inputs for part in ("--input", one)] + [
        part for one in (*SETTINGS, *settings, *layout(ranks, zero)) for part in ("--set", one)
    ]
    ours = {"TOKENMILL_STORE": f"file://{folder}", "TOKENMILL_LEASE_TTL_S": "4", "TOKENMILL_LOG": "info"}
    env = os.environ | ours | (env or {})
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True)


def finish(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-2000:]
    return orjson.loads(out.splitlines()[-1])


def complete_checkpoints(folder, ranks=2):
    """Steps whose ranks have all written their marker."""
    markers = list(folder.glob(f"work/*/checkpoints/*/ranks-{ranks}-zero-1/rank-*.json"))
    steps = [int(path.parent.parent.name) for path in markers]
    return {step for step in steps if steps.count(step) == ranks}


def ranks_of(folder):
    """Live processes that train in this store."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "tokenmill.training.worker" in line and str(folder) in line and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def wait_for(condition, what, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def trainers(folder):
    """The ranks alone, without torchrun."""
    return [process for process in ranks_of(folder) if "torch.distributed.run" not in " ".join(process.cmdline())]


def lines(err):
    return err.strip().splitlines()


def training_log(folder, digests, with_skipped=False):
    """Step → what was measured of it."""
    store = open_store(f"file://{folder}")
    shard = store.get_manifest(digests["training_log"]).shards[0]
    return {
        row["step"]: row
        for row in read_jsonl(store.blob_path(shard.blob))
        if "lr" in row or (with_skipped and "skipped" in row)
    }


def weights(folder, digests):
    """Tensor name → values, of a store's published weights."""
    store = open_store(f"file://{folder}")
    shard = store.get_manifest(digests["weights"]).shard("model.safetensors")
    return safetensors.numpy.load_file(store.blob_path(shard.blob))


def kill(folder, process):
    """SIGKILL to a step, which takes its ranks with it."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not ranks_of(folder), "the ranks to die with their launcher", 10)
