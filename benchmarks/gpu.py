"""One GPU: our engine on InternLM2 beside a plain `torch.compile`d Llama of the same shape; tokens/s, MFU, HFU, memory.

`python benchmarks/gpu.py [--preset internlm2-1.8b] [--contexts 4096,32768] [--kernels auto,varlen] [--steps 10] [--json]`

bf16 weights and activations with fp32 optimizer states on both sides, AdamW, clipping, whole sequences of random tokens, one
sequence a step or as many as hold 16,384 tokens. MFU counts 6 operations a weight and token and causal attention
(`tokenmill.training.flops`); HFU counts recomputed forward passes too. Medians of the steps after three that warm up.
`--device cpu --preset pico --contexts 128` shows on any machine that it runs; its numbers mean nothing.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy
import torch
import torch.distributed as dist
from rows import machine

from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.training.data import PackedBatches, Samples, next_token_loss
from tokenmill.training.engine import Engine
from tokenmill.training.flops import flops_per_token, named, recomputed_flops_per_token, utilization
from tokenmill.training.run import TrainingRun
from tokenmill.training.settings import OptimConfig, TrainingConfig, TrainingExecution
from tokenmill.training.timing import peak_memory

WARM_UP, TOKENS_AT_ONCE = 3, 16_384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="internlm2-1.8b")
    parser.add_argument("--contexts", default="4096,32768")
    parser.add_argument("--kernels", default="auto", help="of attention, for ours: auto, flash, varlen, sdpa")
    parser.add_argument("--recompute", default="", help="none, selective or full [none up to 8,192 tokens, then full]")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "no GPU here: run it where there is one, or try it with --device cpu --preset pico --contexts 128"
        )
    found: dict[str, Any] = {"machine": _machine()}
    with _one_rank():
        for context in map(int, asked.contexts.split(",")):
            shape = replace(InternLM2Config.preset(asked.preset), max_position_embeddings=context)
            recompute = asked.recompute or ("none" if context <= 8192 else "full")
            contestants = {
                f"ours, {kernel}": partial(ours, shape, context, kernel, recompute, asked.steps + WARM_UP)
                for kernel in asked.kernels.split(",")
            } | {"compiled Llama": partial(compiled_llama, shape, context, recompute, asked.device)}
            for name, build in contestants.items():
                found[f"{name}, {context}, recompute {recompute}"] = told(build, shape, context, recompute, asked.steps)
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    print(found.pop("machine"))
    for name, values in found.items():
        print(name, *(f"{what} {value:,.4g}" for what, value in values.items()), sep="\n  ")


def told(
    build: Callable[[], Callable[[], None]], shape: InternLM2Config, context: int, recompute: str, steps: int
) -> dict[str, float]:
    """Build a contestant and run it; what its median step comes to. It is gone afterwards, with its memory."""
    step = build()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    spent = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    tokens_per_s = sequences(context) * context / statistics.median(spent[WARM_UP:])
    values = {"tokens/s": tokens_per_s, "memory GiB": peak_memory() / 2**30}
    device = named(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if device:
        useful = flops_per_token(shape, context)
        done = recomputed_flops_per_token(shape, context) if recompute == "full" else useful
        values["MFU"] = utilization(tokens_per_s, useful, device.bf16_flops)
        values["HFU"] = utilization(tokens_per_s, done, device.bf16_flops)
    return values


def sequences(context: int) -> int:
    """In a step."""
    return max(1, TOKENS_AT_ONCE // context)


def ours(shape: InternLM2Config, context: int, kernel: Any, recompute: Any, steps: int) -> Callable[[], None]:
    """Our engine's step: DeepSpeed, packed sequences, chunked cross-entropy."""
    count = sequences(context)
    length = numpy.full(count * steps, context)
    samples = Samples(
        shards=[numpy.random.default_rng(0).integers(3, shape.vocab_size, int(length.sum()), dtype=numpy.uint32)],
        shard=numpy.zeros(len(length), numpy.int32),
        offset=numpy.cumsum(length) - length,
        length=length,
        sources=("random",),
        source=numpy.zeros(len(length), numpy.int16),
    )
    batches = PackedBatches(samples, context, count, seed=0, micro_batch_tokens=count * context)
    run = TrainingRun(InternLM2ForCausalLM(shape), batches, next_token_loss, OptimConfig(), lambda *_: None)
    execution = TrainingExecution(ranks=1, zero_stage=1, attention=kernel, recompute=recompute)
    engine = Engine(run, TrainingConfig(precision="bf16", execution=execution), 1, regrouped=False)
    numbers = iter(range(steps))

    def step() -> None:
        number = next(numbers)
        batch = batches.at(number, 0, 1)
        engine.step(number, batch.micro_batches, batch.weight)

    return step


def compiled_llama(shape: InternLM2Config, context: int, recompute: str, device: str) -> Callable[[], None]:
    """Hugging Face's Llama under `torch.compile`: fp32 weights, bf16 autocast, fused AdamW."""
    from training_peer import llama
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(llama(shape)).to(device)
    assert sum(p.numel() for p in model.parameters()) == shape.parameter_count()
    if recompute == "full":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    compiled: Any = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = torch.randint(3, shape.vocab_size, (sequences(context), context), device=device)

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = compiled(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


@contextmanager
def _one_rank() -> Iterator[None]:
    os.environ |= {"LOCAL_RANK": "0"}  # DeepSpeed asks for it
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        yield
        dist.destroy_process_group()


def _machine() -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{machine('torch', 'deepspeed', 'transformers')}, {gpu}"


if __name__ == "__main__":
    main()
