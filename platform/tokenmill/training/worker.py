"""A rank of a training step: `torchrun -m tokenmill.training.worker <spec uri>`.

It needs nothing but that URI, the image and the environment. Rank 0 writes `result.json` last; the first rank to fail writes
`failure.json` with its traceback; the launcher reads only those.
"""

import os
import sys
import traceback
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenmill.errors import EXIT_RETRY, Interrupted, LeaseLost, RolledBack, UserError
from tokenmill.logs import Log
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps.files import materialise, scratch, store_file
from tokenmill.steps.registry import find
from tokenmill.store import ArtifactStore, open_store, watch_lease
from tokenmill.telemetry import Board, Page, info, served, since
from tokenmill.tether import die_with_parent
from tokenmill.tracking import EventLog
from tokenmill.training.messages import Failure, Result, Spec


def read_spec(uri: str) -> tuple[ArtifactStore, Spec]:
    """The store and spec that a spec URI names."""
    root, _, path = uri.rpartition("/work/")
    store = open_store(root)
    return store, Spec.model_validate_json(store.backend.get(f"work/{path}"))


@dataclass
class WorkerContext:
    """What `build` gets in each rank."""

    store: ArtifactStore
    workdir: Path
    rank: int
    world: int
    execution: Any
    log: Log | None
    """Of rank 0 alone: what all ranks see is said once."""

    def files(self, manifest: Manifest) -> Path:
        """A folder with the artifact's files; each rank has its own copy."""
        folder = self.workdir / "inputs" / manifest.digest[:16]
        return folder if folder.exists() else materialise(self.store, manifest, folder)

    def records(self, manifest: Manifest) -> Any:
        from tokenmill.records import JSONL, read_jsonl

        for shard in manifest.shards:
            if shard.name.endswith(JSONL):
                yield from read_jsonl(self.store.blob_path(shard.blob))


def main(uri: str) -> int:
    die_with_parent()
    store, spec = read_spec(uri)
    rank = int(os.environ.get("RANK", "0"))
    try:
        _train(store, spec, rank, int(os.environ.get("WORLD_SIZE", "1")))
        return 0
    except LeaseLost as lost:
        sys.stderr.write(f"rank {rank}: {lost}\n")
        return 1
    except BaseException as failure:
        retry = isinstance(failure, Interrupted)
        report = Failure(
            rank=rank,
            message=str(failure) or type(failure).__name__,
            expected=retry or isinstance(failure, UserError),
            retry=retry,
            rollback=isinstance(failure, RolledBack),
            traceback=traceback.format_exc(),
        )
        store.backend.create(f"{spec.folder}/failure.json", report.model_dump_json().encode())
        traceback.print_exc()
        return EXIT_RETRY if retry else 1


def _train(store: ArtifactStore, spec: Spec, rank: int, world: int) -> None:
    import torch
    import torch.distributed as dist

    from tokenmill.training.checkpoint import Checkpoints
    from tokenmill.training.loop import Loop
    from tokenmill.training.rng import seed_everything
    from tokenmill.training.settings import TrainingConfig
    from tokenmill.training.watchdog import Heart, serve_health

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    else:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    definition = find(spec.step)
    config = definition.config.at(spec.step, spec.config)
    assert isinstance(config, TrainingConfig), "a training step is configured as one"
    execution, log = config.execution, Log({"run": spec.run.key, "step": spec.step, "rank": rank})
    heart = Heart(store, spec.folder, rank, execution.stuck_after_s)
    heart.start()
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of its node: one pod, one address
    if execution.health_port is not None and first:
        log.info("healthz", port=serve_health(heart, execution.health_port).server_port)
    dist.init_process_group("nccl" if cuda else "gloo")
    inputs = {role: [store.get_manifest(d) for d in digests] for role, digests in spec.inputs.items()}
    board = Board(Page(), spec.task, definition.name)
    board.set("tokenmill_training_last_step_timestamp_seconds", lambda: since(heart.stepped))
    events = EventLog(store, spec.run, spec.task, seen=board.take) if rank == 0 else None
    with scratch() as workdir, served(board.page, log) if first else nullcontext():
        seed_everything(0)
        from tokenmill.steps.runner import arguments

        ctx = WorkerContext(store, workdir, rank, world, execution, log if rank == 0 else None)
        run = definition.function(config, *arguments(definition, inputs), ctx)
        shared = [str(workdir)]
        dist.broadcast_object_list(shared, src=0)
        checkpoints = Checkpoints(store, spec.key, Path(shared[0]) / "checkpoints", execution, log)
        if rank == 0:
            info(board, spec.run)
            board.set("tokenmill_training_checkpoint_timestamp_seconds", lambda: checkpoints.stored_at)
        report = events.metrics if events else lambda values, step: None
        loop = Loop(run, config, checkpoints, report, watch_lease(store, spec.key, spec.attempt).check, heart)
        loop.train()
        if rank == 0:
            _publish(store, spec, run, loop, workdir)
        if events:
            events.close()
        dist.barrier()
    heart.stop()
    dist.destroy_process_group()


def _publish(store: ArtifactStore, spec: Spec, run: Any, loop: Any, workdir: Path) -> None:
    """Store the weights, the training log and what else the training leaves, then `result.json`, last."""
    from tokenmill.records import JSONL, write_jsonl
    from tokenmill.training.exports import left, stored

    outputs = left(store, run, loop, workdir / "weights")
    log = workdir / f"training-log{JSONL}"
    _, count = write_jsonl(log, loop.log.rows())
    training_log = Draft(
        kind="training_log", shards=(store_file(store, log, log.name, count),), counts={"records": count}
    )
    outputs["training_log"] = training_log
    if run.optimizer_out:
        state = stored(store, run.optimizer_out)
        outputs["training_state"] = Draft(kind="training_state", shards=state, counts={"steps": len(run.batches)})
    result = Result(outputs=outputs)
    store.backend.put(f"{spec.folder}/result.json", result.model_dump_json().encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
