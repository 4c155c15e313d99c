"""From a training step to its ranks and back: spec.json out, result.json or failure.json in."""

import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenmill.errors import Interrupted, StepFailed
from tokenmill.launch.tether import tethered
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps.context import StepContext
from tokenmill.steps.registry import Definition
from tokenmill.training.settings import TrainingExecution

PASSED_ON = (
    "TOKENMILL_",
    "AWS_",
    "MLFLOW_",
    "NCCL_",
    "SSL_",
    "PYTHONPATH",
    "PATH",
    "HOME",
    "TMPDIR",
    "OMP_NUM_THREADS",
)


def launch_training(
    definition: Definition, config: Any, inputs: Mapping[str, Sequence[Manifest]], ctx: StepContext
) -> dict[str, Draft]:
    """Start the ranks, hold the lease while they train, and read what they publish.

    Raises:
        StepFailed: with the first failing rank's message; its traceback is in the log.
    """
    from tokenmill.training.messages import Failure, Result, Spec
    from tokenmill.training.resume import Layout, outlook

    assert ctx.lease, "training runs under a lease"
    spec = Spec(
        store=ctx.store.uri,
        step=definition.name,
        version=definition.version,
        config=config.model_dump(mode="json", exclude_defaults=True),
        inputs={role: tuple(m.digest for m in manifests) for role, manifests in inputs.items()},
        key=ctx.key,
        attempt=ctx.lease.attempt,
        run=ctx.run,
        task=ctx.events.task,
    )
    ctx.store.backend.put(f"{spec.folder}/spec.json", spec.model_dump_json().encode())
    unused, said = outlook(ctx.store, ctx.key, Layout(config.execution.ranks, config.execution.zero_stage))
    if said:
        (ctx.log.warning if unused else ctx.log.info)(said)
    state, tail = _run(spec.uri, config.execution)
    ctx.lease.check()
    backend = ctx.store.backend
    if backend.exists(f"{spec.folder}/result.json"):
        return Result.model_validate_json(backend.get(f"{spec.folder}/result.json")).outputs
    if not backend.exists(f"{spec.folder}/failure.json"):
        raise StepFailed(f"{definition.name}: the ranks ended ({state}) without a word; last lines:\n{tail}")
    failure = Failure.model_validate_json(backend.get(f"{spec.folder}/failure.json"))
    if not failure.expected:
        ctx.log.error("rank failed first", rank=failure.rank, traceback=failure.traceback)
    if failure.retry:
        raise Interrupted(f"{definition.name}: {failure.message}")
    raise StepFailed(
        f"{definition.name}: rank {failure.rank} of {config.execution.ranks} failed first: {failure.message}"
    )


def _run(uri: str, execution: TrainingExecution) -> tuple[str, str]:
    """Run torchrun under a torchx AppDef until it ends; returns the final state and the last log lines."""
    from torchx.runner import get_runner
    from torchx.specs import AppDef, Resource, Role

    _quiet_torchx()
    with tempfile.TemporaryDirectory(prefix="tokenmill-launch-") as scratch:
        torchrun = [
            *("--nnodes=1", f"--nproc_per_node={execution.ranks}", "--max-restarts=0"),
            *("--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", "--monitor-interval=0.1"),
            *("-m", "tokenmill.training.worker", uri),
        ]
        role = Role(
            name="trainer",
            image=scratch,  # local_cwd: the folder the ranks start in; nothing is read from it
            entrypoint=sys.executable,
            args=["-m", "tokenmill.launch.tether", sys.executable, "-m", "torch.distributed.run", *torchrun],
            env={"OMP_NUM_THREADS": "1"}
            | {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}
            | tethered(),
            num_replicas=1,
            resource=Resource(cpu=execution.ranks, gpu=0, memMB=1024),
        )
        app = AppDef(name="tokenmill-training", roles=[role])
        with get_runner() as runner:
            info = runner.dryrun(app, scheduler=execution.scheduler, cfg={"log_dir": f"{scratch}/logs"})
            handle = runner.schedule(info)
            try:
                status = runner.wait(handle, wait_interval=0.2)
            except BaseException:
                runner.cancel(handle)
                raise
        return str(status.state if status else "unknown"), _tail(Path(scratch) / "logs")


def _quiet_torchx() -> None:
    """Where the root logger shows INFO, torchx would tell of every call and poll of the runner."""
    logging.getLogger("torchx").setLevel(logging.WARNING)
    logging.getLogger("torchx-events-null").disabled = True  # torchx sets the level of this one itself


def _tail(logs: Path, lines: int = 15) -> str:
    text = "".join(p.read_text(errors="replace") for p in sorted(logs.rglob("std*.log")) if p.is_file())
    return "\n".join(text.splitlines()[-lines:])
