"""How long a checkpoint makes a step wait: ours, `torch.save` of the same state, `torch.distributed.checkpoint.async_save`.

One rank, a model of some 25M parameters with its AdamW states in fp32 under ZeRO 1. The three take turns; what goes on in the
background afterwards is waited for before the next one begins. Medians of the rounds, the first left out.
"""

import argparse
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from tokenmill.logs import Log
from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.store import open_store
from tokenmill.training.checkpoint import Checkpoints
from tokenmill.training.data import PackedBatches, Sample, next_token_loss
from tokenmill.training.engine import Engine
from tokenmill.training.run import TrainingRun
from tokenmill.training.settings import OptimConfig, StageConfig
from tokenmill.training.snapshot import collect


def trained_engine(hidden: int, layers: int) -> Engine:
    """An engine whose optimizer has its states."""
    shape = replace(
        InternLM2Config.preset("pico"),
        vocab_size=8192,
        hidden_size=hidden,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=hidden // 8,
        intermediate_size=hidden * 3,
        num_hidden_layers=layers,
    )
    model = InternLM2ForCausalLM(shape, seed=0)
    batches = PackedBatches([Sample(list(range(64)))], 64, 1, seed=0)
    run = TrainingRun(model, batches, next_token_loss, OptimConfig(), lambda model, folder: None)
    engine = Engine(run, StageConfig(precision="fp32"), 1, regrouped=False)
    batch = batches.at(0, 0, 1)
    engine.step(0, batch.micro_batches, batch.weight)
    return engine


def tensors(state: Any, prefix: str = "", found: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Name → tensor, of a nested state."""
    found = {} if found is None else found
    if isinstance(state, torch.Tensor):
        found[prefix] = state
    elif isinstance(state, dict | list | tuple):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            tensors(value, f"{prefix}/{key}", found)
    return found


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--rounds", type=int, default=5)
    parse.add_argument("--hidden", type=int, default=512)
    parse.add_argument("--layers", type=int, default=6)
    options = parse.parse_args()
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # DeepSpeed asks for them
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    root = Path(tempfile.mkdtemp(prefix="neverlose-checkpoint-"))
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=0, world_size=1)
    engine = trained_engine(options.hidden, options.layers)
    execution = StageConfig().execution.model_copy(update={"keep_last": 1})
    checkpoints = Checkpoints(open_store(f"file://{root}/store"), "key", root / "local", execution, Log())
    state = collect(engine.engine)
    flat = tensors(state)
    cached = DefaultStager(
        StagingOptions(False, False, False, False)
    )  # nothing of it without a GPU but the kept memory
    steps = iter(range(1, 1_000_000))

    def ours() -> Callable[[], object]:
        checkpoints.save(engine.engine, next(steps), {})
        return checkpoints.wait

    def torch_save() -> Callable[[], object]:
        torch.save(state, root / "whole.pt")
        return (root / "whole.pt").unlink

    def dcp_async(**how: Any) -> Callable[[], object]:
        future = dcp.async_save(flat, checkpoint_id=str(root / "dcp"), **how)

        def finish() -> None:
            future.result()
            shutil.rmtree(root / "dcp")

        return finish

    ways: dict[str, Callable[[], Callable[[], object]]] = {
        "torch.save": torch_save,
        "DCP async_save": dcp_async,
        "DCP async_save, staging kept": lambda: dcp_async(async_stager=cached),
        "ours": ours,
    }
    stalls: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds + 1):
        for name, begin in ways.items():
            started = time.perf_counter()
            finish = begin()
            stalls[name].append(time.perf_counter() - started)
            finish()
    medians = {name: statistics.median(values[1:]) for name, values in stalls.items()}
    print(
        json.dumps(
            {
                "parameters": sum(p.numel() for p in engine.run.model.parameters()),
                "state_mb": round(sum(one.untyped_storage().nbytes() for one in _distinct(flat)) / 1e6),
                "stall_s": {name: round(value, 4) for name, value in medians.items()},
                "first_s": {name: round(values[0], 4) for name, values in stalls.items()},
                "to_torch_save": {name: round(value / medians["torch.save"], 4) for name, value in medians.items()},
            },
            indent=1,
        )
    )
    dist.destroy_process_group()
    shutil.rmtree(root)


def _distinct(flat: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """A tensor of each storage."""
    return list({tensor.untyped_storage().data_ptr(): tensor for tensor in flat.values()}.values())


if __name__ == "__main__":
    main()
