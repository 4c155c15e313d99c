"""Training measured: packing alone, and our loop beside a bare PyTorch loop on the same module.

`python benchmarks/training.py packing|loop|loop_zero1|all [--json] [--rounds N]`; one process, one thread. The contestants of
`loop` take turns, round after round, each with `STEPS` steps on the same batches; what each needs to start is not timed.
"""

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy
import torch
import torch.distributed as dist

from tokenmill.logs import Log
from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.store import open_store
from tokenmill.training.checkpoint import Checkpoints
from tokenmill.training.data import PackedBatches, Samples, next_token_loss
from tokenmill.training.loop import Loop
from tokenmill.training.packing import best_fit_decreasing, pack_columns
from tokenmill.training.prefetch import Prefetched
from tokenmill.training.run import TrainingRun
from tokenmill.training.settings import OptimConfig, TrainingConfig, TrainingExecution
from tokenmill.training.watchdog import Heart

Row = Callable[[int], dict[str, Any]]
ROWS: dict[str, Row] = {}
SHAPE = InternLM2Config(
    vocab_size=8192,
    hidden_size=384,
    num_hidden_layers=9,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=64,
    intermediate_size=1152,
    max_position_embeddings=512,
)
CONTEXT, PACKS, STEPS = 256, 2, 12
OPTIM = OptimConfig()


def row(function: Row) -> Row:
    """Register a row of the table under its name. It takes the number of rounds."""
    ROWS[function.__name__] = function
    return function


@row
def packing(rounds: int) -> dict[str, Any]:
    """Documents a second of processor time, and the share of slots used, on lengths as documents have them (lognormal)."""
    found: dict[str, Any] = {}
    for capacity, mean in ((2048, 6.0), (4096, 6.0), (32_768, 8.0)):
        lengths = numpy.random.default_rng(0).lognormal(mean, 1.0, 200_000).astype(numpy.int64) + 1
        listed = lengths.tolist()
        made = pack_columns(lengths, capacity)
        assert numpy.bincount(made.document, weights=made.length).tolist() == listed  # no token lost
        assert len(made.document) == int((-(-lengths // capacity)).sum())  # only longer ones split
        for name, work in (("lists", best_fit_decreasing), ("columns", pack_columns)):
            spent = []
            for _ in range(rounds):
                start = time.process_time()
                work(listed if name == "lists" else lengths, capacity)
                spent.append(time.process_time() - start)
            found[f"{capacity}: documents/s as {name}"] = round(len(lengths) / statistics.median(spent))
        found[f"{capacity}: slots used"] = float(lengths.sum() / (len(made) * capacity))
    return found


@row
def loop(rounds: int) -> dict[str, Any]:
    """Tokens a second of our loop over those of a bare one: engine, cursor, ledger, metrics and one checkpoint a round on.

    At ZeRO stage 0: one rank has nobody to share its optimizer states with.
    """
    return _compare(rounds, zero_stage=0)


@row
def loop_zero1(rounds: int) -> dict[str, Any]:
    """The same at ZeRO stage 1, the default, which on one rank costs its copies and saves nothing."""
    return _compare(rounds, zero_stage=1)


def _compare(rounds: int, zero_stage: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    ours, bare, stalls, waits = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"LOCAL_RANK": "0"}  # DeepSpeed asks for it
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        for number in range(rounds + 1):
            in_ours, losses, stall, waited = _ours(Path(folder) / str(number), zero_stage)
            in_bare, expected = _bare()
            numpy.testing.assert_allclose(losses, expected, rtol=1e-3)  # the same training
            if number:  # the first is for warming up
                ours.append(in_ours)
                bare.append(in_bare)
                stalls.append(stall)
                waits.append(waited)
        dist.destroy_process_group()
    tokens = sum(_batches().at(step, 0, 1).tokens for step in range(STEPS))
    ratios = [theirs / mine for mine, theirs in zip(ours, bare, strict=True)]
    unstalled = [theirs / (mine - stall) for mine, theirs, stall in zip(ours, bare, stalls, strict=True)]
    return {
        "parameters": SHAPE.parameter_count(),
        "tokens a step": round(tokens / STEPS),
        "ours, tokens/s": tokens / statistics.median(ours),
        "bare loop, tokens/s": tokens / statistics.median(bare),
        "ratio": statistics.median(ratios),
        "ratio, each round": [round(ratio, 4) for ratio in ratios],
        "ratio, without the checkpoint's stall": statistics.median(unstalled),
        "stall of the round's checkpoint, s": statistics.median(stalls),
        "waited for batches, share of the steps": statistics.median(waits),
    }


def _batches() -> PackedBatches:
    """Documents as a corpus has them, the last pack of each step full to a few tokens."""
    draw = numpy.random.default_rng(0)
    length = draw.lognormal(4.5, 1.0, 400).astype(numpy.int64) + 2
    samples = Samples(
        shards=[draw.integers(3, SHAPE.vocab_size, int(length.sum()), dtype=numpy.uint16)],
        shard=numpy.zeros(len(length), numpy.int32),
        offset=numpy.cumsum(length) - length,
        length=length,
        sources=("a", "b"),
        source=(numpy.arange(len(length)) % 2).astype(numpy.int16),
    )
    return PackedBatches(samples, CONTEXT, PACKS, seed=1, steps=STEPS, micro_batch_tokens=CONTEXT * PACKS)


class _Timed(Checkpoints):
    """Checkpoints that say how long the loop waits for one."""

    stall = 0.0

    def save(self, *arguments: Any, **more: Any) -> None:
        start = time.perf_counter()
        super().save(*arguments, **more)
        self.stall += time.perf_counter() - start


def _ours(folder: Path, zero_stage: int) -> tuple[float, list[float], float, float]:
    """Seconds from the first step to the end of the last, losses, seconds a checkpoint took, share that batches took."""
    batches = _batches()
    model = InternLM2ForCausalLM(SHAPE, seed=0)
    run = TrainingRun(model, Prefetched(batches), next_token_loss, OPTIM, lambda *_: None, plan=batches.plan())
    execution = TrainingExecution(ranks=1, checkpoint_every=STEPS // 2 + 1, zero_stage=zero_stage)
    config = TrainingConfig(precision="fp32", execution=execution)
    store = open_store((folder / "store").as_uri())
    checkpoints = _Timed(store, "key", folder / "local", execution, Log())
    heart = Heart(store, "work/key/attempt", rank=0, limit_s=execution.stuck_after_s)
    heart.start()
    reported, waited, started = [], [], []

    def report(values: dict[str, float], step: int) -> None:
        reported.append(values["loss"])
        waited.append(values["perf/data_wait_ratio"])
        store.backend.put(f"events/{step}", json.dumps(values).encode())

    Loop(run, config, checkpoints, report, lambda: started.append(time.perf_counter()), heart).train()
    seconds = time.perf_counter() - started[0]
    heart.stop()
    return seconds, reported, checkpoints.stall, statistics.median(waited)


def _bare() -> tuple[float, list[float]]:
    """What one writes in an afternoon: batches made beforehand, AdamW with two groups, clipping, a cosine."""
    batches = [_batches().at(step, 0, 1) for step in range(STEPS)]
    model = InternLM2ForCausalLM(SHAPE, seed=0)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": OPTIM.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=OPTIM.lr, betas=OPTIM.betas, eps=OPTIM.eps)
    losses = []
    start = time.perf_counter()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = OPTIM.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * step / (STEPS - 1))))
        (pack,) = batch.micro_batches
        loss = model(pack.input_ids, pack.cu_seqlens, pack.positions, labels=pack.labels).sum() / batch.weight
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return time.perf_counter() - start, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", choices=[*ROWS, "all"])
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    parser.add_argument("--rounds", type=int, default=5, help="the median of so many is said")
    wanted = parser.parse_args()
    names = list(ROWS) if wanted.row == "all" else [wanted.row]
    found = {"machine": f"{platform.machine()}, Python {platform.python_version()}"} | {
        name: ROWS[name](wanted.rounds) for name in names
    }
    if wanted.json:
        print(json.dumps(found, indent=2))
        return
    for name in names:
        print(name)
        for what, value in found[name].items():
            print(f"  {what:<45}{value:,.4f}" if isinstance(value, float) else f"  {what:<45}{value}")


if __name__ == "__main__":
    main()
