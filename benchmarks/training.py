"""Training measured: packing, our loop beside a bare one and Hugging Face's Trainer, a restart, the merged Wqkv.

`python benchmarks/training.py ROW|all [--json] [--rounds N]`, rows being packing, loop, loop_zero1, trainer, trainer_padded,
trainer_flattened, products, restart and wqkv; one thread. Contestants take turns, round after round, each with `STEPS` steps
on the same tokens; what each needs to start is no part. Steps are measured in processor time, of all threads of a contestant:
what else the machine does is not theirs. A restart and a checkpoint's wait are measured by the clock.
"""

import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy
import torch
import torch.distributed as dist
from rows import Table, seconds

from tokenmill.logs import Log
from tokenmill.model.config import InternLM2Config
from tokenmill.model.linear import Linear
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

TABLE = Table(__doc__, "rounds", 5, "the median of so many is said")
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
CONTEXT, PACKS, STEPS = 512, 4, 6
OPTIM = OptimConfig()


@TABLE.row
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


@TABLE.row
def loop(rounds: int) -> dict[str, Any]:
    """Tokens a second of our loop over those of a bare one: engine, cursor, ledger, metrics and one checkpoint a round on.

    At ZeRO stage 0: one rank has nobody to share its optimizer states with.
    """
    return _compare(rounds, _documents(), zero_stage=0)


@TABLE.row
def loop_zero1(rounds: int) -> dict[str, Any]:
    """The same at ZeRO stage 1, the default, which on one rank costs its copies and saves nothing."""
    return _compare(rounds, _documents(), zero_stage=1)


@TABLE.row
def trainer(rounds: int) -> dict[str, Any]:
    """Our loop over Hugging Face's Trainer on its Llama of the same shape, on sequences of the whole context."""
    return _beside_trainer(rounds, _whole_contexts(), "whole")


@TABLE.row
def trainer_padded(rounds: int) -> dict[str, Any]:
    """The same on documents of a corpus' lengths, which Trainer's collator pads to the longest; padding is not counted."""
    return _beside_trainer(rounds, _short_documents(), "padded")


@TABLE.row
def trainer_flattened(rounds: int) -> dict[str, Any]:
    """The same, laid end to end by transformers' own `DataCollatorWithFlattening`."""
    return _beside_trainer(rounds, _short_documents(), "flattened")


@TABLE.row
def products(rounds: int) -> dict[str, Any]:
    """Matrix products of the loop's model, forward and backward: ours over `torch.nn.Linear`, in processor time."""
    found: dict[str, Any] = {}
    for rows, wide, narrow in ((2048, 384, 1152), (2048, 384, 640), (256, 384, 8192)):
        ours, theirs = _drawn(wide, narrow), torch.nn.Linear(wide, narrow, bias=False)
        x, grad = torch.randn(rows, wide, requires_grad=True), torch.randn(rows, narrow)

        def one(x: torch.Tensor = x, grad: torch.Tensor = grad, ours: Any = ours) -> None:
            ours(x).backward(grad)

        def other(x: torch.Tensor = x, grad: torch.Tensor = grad, theirs: Any = theirs) -> None:
            theirs(x).backward(grad)

        one(), other()
        mine, others = seconds(one, other, rounds=10 * rounds)
        operations = 6 * rows * wide * narrow / 1e9
        found[f"{rows} × {wide} × {narrow}: ours, GFLOP/s"] = operations / mine
        found[f"{rows} × {wide} × {narrow}: theirs over ours, seconds"] = others / mine
    return found


@TABLE.row
def restart(rounds: int) -> dict[str, Any]:
    """Seconds from a built nano model to the end of its first step, from a checkpoint and from nothing, without imports."""
    shape = InternLM2Config.preset("nano")
    spent: dict[str, list[float]] = {"from nothing": [], "from a checkpoint": []}
    with tempfile.TemporaryDirectory() as folder, _one_rank(folder):
        for number in range(rounds + 1):
            place = Path(folder) / str(number)
            for times in spent.values():  # the second finds what the first left
                measured = _ours(
                    place, _documents(steps=3), zero_stage=1, shape=shape, checkpoint_every=1, stop_after=1
                )
                times.append(measured.first_step)
    return {f"{name}, s": statistics.median(times[1:]) for name, times in spent.items()} | {
        "parameters": shape.parameter_count()
    }


@TABLE.row
def wqkv(rounds: int) -> dict[str, Any]:
    """One merged projection over three for queries, keys and values: forward and backward, in the shapes of two models."""
    found: dict[str, Any] = {}
    for name, shape, tokens in (
        ("of the loop's model", SHAPE, 2048),
        ("1.8B", InternLM2Config.preset("internlm2-1.8b"), 512),
    ):
        width = shape.num_key_value_heads * shape.head_dim
        rows = (shape.hidden_size, width, width)
        x = torch.randn(tokens, shape.hidden_size)
        merged = _drawn(shape.hidden_size, sum(rows))
        apart = [_drawn(shape.hidden_size, size) for size in rows]

        def one(x: torch.Tensor = x, merged: Any = merged) -> None:
            merged(x.requires_grad_()).sum().backward()

        def three(x: torch.Tensor = x, apart: Any = apart) -> None:
            x.requires_grad_()
            sum(projection(x).sum() for projection in apart).backward()

        one(), three()
        in_one, in_three = seconds(one, three, rounds=10 * rounds)
        found[f"{name}: three projections over one, seconds"] = in_three / in_one
    return found


def _drawn(wide: int, narrow: int) -> Linear:
    """A linear map of ours with weights."""
    made = Linear(wide, narrow)
    torch.nn.init.normal_(made.weight, std=wide**-0.5)
    return made


def _beside_trainer(rounds: int, made: PackedBatches, laid: Literal["whole", "padded", "flattened"]) -> dict[str, Any]:
    from training_peer import trainer_seconds

    return _compare(rounds, made, zero_stage=0, peer=lambda made: (trainer_seconds(SHAPE, OPTIM, made, laid), None)) | {
        "documents": len(made.samples)
    }


def _compare(rounds: int, made: PackedBatches, zero_stage: int, peer: Any = None) -> dict[str, Any]:
    ours: list[Measured] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder, _one_rank(folder):
        for number in range(rounds + 1):
            mine = _ours(Path(folder) / str(number), made, zero_stage)
            in_theirs, expected = (peer or _bare)(made)
            if expected:
                numpy.testing.assert_allclose(mine.losses, expected, rtol=1e-3)  # the same training
            if number:  # the first is for warming up
                ours.append(mine)
                theirs.append(in_theirs)
    tokens = sum(made.at(step, 0, 1).tokens for step in range(STEPS))
    every = TrainingExecution().checkpoint_every
    usual = [one.seconds - one.copying * (1 - STEPS / every) for one in ours]
    ratios = [other / mine for mine, other in zip(usual, theirs, strict=True)]
    median = statistics.median
    return {
        "parameters": SHAPE.parameter_count(),
        "tokens a step": round(tokens / STEPS),
        "ours, tokens/s": tokens / median(usual),
        "theirs, tokens/s": tokens / median(theirs),
        f"ratio, a checkpoint every {every} steps": median(ratios),
        "ratio, each round": [round(ratio, 3) for ratio in ratios],
        f"ratio, a checkpoint every {STEPS} steps": median(b / a.seconds for a, b in zip(ours, theirs, strict=True)),
        "wait for a checkpoint, s": median(one.stall for one in ours),
        "waited for batches, share of the steps": median(one.waited for one in ours),
    }


@contextmanager
def _one_rank(folder: str) -> Iterator[None]:
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": "0"}  # DeepSpeed asks for it
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def _documents(steps: int = STEPS) -> PackedBatches:
    """Documents as a corpus has them, the last pack of each step full to a few tokens."""
    return _batches(numpy.random.default_rng(0).lognormal(4.5, 1.0, 1000).astype(numpy.int64) + 2, steps)


def _whole_contexts() -> PackedBatches:
    return _batches(numpy.full(PACKS * STEPS, CONTEXT), STEPS)


def _short_documents() -> PackedBatches:
    """Documents as a corpus has them, none beyond the context, which fill the steps' packs and are all learned once."""
    length = numpy.minimum(numpy.random.default_rng(0).lognormal(4.5, 1.0, 1000).astype(numpy.int64) + 2, CONTEXT)
    made = _batches(length[numpy.cumsum(length) <= 0.995 * PACKS * STEPS * CONTEXT], None)
    assert len(made) == STEPS
    return made


def _batches(length: Any, steps: int | None) -> PackedBatches:
    samples = Samples(
        shards=[numpy.random.default_rng(1).integers(3, 4096, int(length.sum()), dtype=numpy.uint16)],
        shard=numpy.zeros(len(length), numpy.int32),
        offset=numpy.cumsum(length) - length,
        length=length,
        sources=("a", "b"),
        source=(numpy.arange(len(length)) % 2).astype(numpy.int16),
    )
    return PackedBatches(samples, CONTEXT, PACKS, seed=1, steps=steps, micro_batch_tokens=CONTEXT * PACKS)


class _Timed(Checkpoints):
    """Checkpoints that say how long the loop waits for one, and how much of that is its own work."""

    stall = copying = 0.0

    def save(self, *arguments: Any, **more: Any) -> None:
        start, worked = time.perf_counter(), time.thread_time()
        super().save(*arguments, **more)
        self.stall += time.perf_counter() - start
        self.copying += time.thread_time() - worked


@dataclass
class Measured:
    """One training of ours."""

    seconds: float
    """Of processor time from the first step to the end of the last."""
    first_step: float
    """Seconds from the loop's start to the end of the first step."""
    losses: list[float]
    stall: float
    """Seconds that checkpoints made it wait."""
    copying: float
    """Of processor time that the loop itself took for them."""
    waited: float
    """Share of a step that batches took."""


class _Enough(Exception):
    pass


def _ours(
    folder: Path,
    made: PackedBatches,
    zero_stage: int,
    shape: InternLM2Config = SHAPE,
    checkpoint_every: int = STEPS // 2 + 1,
    stop_after: int = STEPS + 1,
) -> Measured:
    model = InternLM2ForCausalLM(shape, seed=0)
    run = TrainingRun(model, Prefetched(made), next_token_loss, OPTIM, lambda *_: None, plan=made.plan())
    execution = TrainingExecution(ranks=1, checkpoint_every=checkpoint_every, zero_stage=zero_stage)
    config = TrainingConfig(precision="fp32", execution=execution)
    store = open_store((folder / "store").as_uri())
    checkpoints = _Timed(store, "key", folder / "local", execution, Log())
    heart = Heart(store, "work/key/attempt", rank=0, limit_s=execution.stuck_after_s)
    heart.start()
    reported: list[dict[str, float]] = []
    started: list[tuple[float, float]] = []

    def report(values: dict[str, float], step: int) -> None:
        reported.append(values)
        store.backend.put(f"events/{step}", json.dumps(values).encode())

    def check() -> None:
        started.append((time.perf_counter(), time.process_time()))
        if len(started) > stop_after:
            checkpoints.wait()
            raise _Enough

    begun = time.perf_counter()
    with suppress(_Enough):
        Loop(run, config, checkpoints, report, check, heart).train()
    ended = time.perf_counter(), time.process_time()
    heart.stop()
    return Measured(
        seconds=ended[1] - started[0][1],
        first_step=(started[1] if len(started) > 1 else ended)[0] - begun,
        losses=[values["loss"] for values in reported],
        stall=checkpoints.stall,
        copying=checkpoints.copying,
        waited=statistics.median(values["perf/data_wait_ratio"] for values in reported),
    )


def _bare(made: PackedBatches) -> tuple[float, list[float]]:
    """What one writes in an afternoon: batches made beforehand, AdamW with two groups, clipping, a cosine."""
    batches = [made.at(step, 0, 1) for step in range(STEPS)]
    model = InternLM2ForCausalLM(SHAPE, seed=0)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": OPTIM.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=OPTIM.lr, betas=OPTIM.betas, eps=OPTIM.eps)
    losses = []
    start = time.process_time()
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
    return time.process_time() - start, losses


if __name__ == "__main__":
    TABLE.main()
