"""What torchx is asked to start: a torchrun a node, under it its ranks; processes here, or pods of a Volcano job."""

import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from tokenmill.errors import ConfigError
from tokenmill.launch.volcano import CREDENTIALS, complete
from tokenmill.tether import tethered
from tokenmill.training.settings import TrainingExecution

if TYPE_CHECKING:
    from torchx.runner import Runner
    from torchx.specs import AppDef, AppDryRunInfo

GRACE_S = 120
"""What ranks have, once told to stop, for the step they are at and a checkpoint; torchrun then kills them."""
TOLD = ("TOKENMILL_", "MLFLOW_TRACKING_URI", "NCCL_", "SSL_", "OMP_NUM_THREADS")
"""Of the environment, what ranks are told wherever they are; no secrets."""
INHERITED = ("AWS_", "MLFLOW_", "PYTHONPATH", "PATH", "HOME", "TMPDIR")
"""And what those on this machine are told too. Pods have an image's own, and credentials from a Secret."""
RANK_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",  # nothing here is compiled, and DeepSpeed's imports load the whole compiler: 2 s a rank
}


def dry_run(runner: "Runner", uri: str, execution: TrainingExecution, scratch: str) -> "AppDryRunInfo[Any]":
    """What would be started for the spec at `uri`, as the scheduler is asked for it; `scratch` takes the logs.

    Raises:
        ConfigError: pods are wanted, and no image for them is known.
    """
    if execution.scheduler != "kubernetes":
        return runner.dryrun(
            application(uri, execution, scratch), scheduler=execution.scheduler, cfg={"log_dir": f"{scratch}/logs"}
        )
    image = os.environ.get("TOKENMILL_IMAGE")
    if not image:
        raise ConfigError("execution.scheduler=kubernetes needs an image: set TOKENMILL_IMAGE, as our pods have it")
    cluster = execution.cluster
    info = runner.dryrun(
        application(uri, execution, image),
        scheduler="kubernetes",
        cfg={
            "queue": cluster.queue,
            "namespace": cluster.namespace,
            "service_account": cluster.service_account or None,
            "validate_spec": False,  # it would ask the API server, which says the same when the job is made
        },
    )
    complete(info.request.resource, cluster, GRACE_S)
    return info


def application(uri: str, execution: TrainingExecution, image: str) -> "AppDef":
    """A role of as many replicas as there are nodes. Where processes are started, `image` is the folder they start in."""
    from torchx.specs import AppDef, Resource, Role, macros

    a_node, here = execution.ranks // execution.nodes, execution.scheduler != "kubernetes"
    port = execution.rendezvous_port
    # The scheduler knows the first node when it has one: it names the variable, and a shell reads it.
    meeting = "localhost:0" if execution.nodes == 1 else f"$${{{macros.rank0_env}:=localhost}}:{port}"
    torchrun = [
        *(sys.executable, "-m", "tokenmill.tether", sys.executable, "-m", "torch.distributed.run"),
        *(f"--nnodes={execution.nodes}", f"--nproc_per_node={a_node}", "--max-restarts=0", "--rdzv_backend=c10d"),
        *(f"--rdzv_id={uri.rpartition('/work/')[2].replace('/', '-')}", "--monitor-interval=0.1"),
        f"--shutdown-timeout={GRACE_S}",
    ]
    worker = ["-m", "tokenmill.training.worker", uri]
    environment = {k: v for k, v in os.environ.items() if k.startswith(TOLD + INHERITED if here else TOLD)}
    cluster = execution.cluster
    role = Role(
        name="trainer",
        image=image,
        entrypoint="bash",
        args=["-c", f"exec {shlex.join(torchrun)} --rdzv_endpoint={meeting} {shlex.join(worker)}"],
        env=RANK_ENVIRONMENT | environment | (tethered() if here else {}),
        num_replicas=execution.nodes,
        port_map={"rendezvous": port} if execution.nodes > 1 else {},
        resource=Resource(cpu=a_node, gpu=0, memMB=1024)
        if here
        else Resource(
            cpu=cluster.cpus,
            gpu=a_node if cluster.gpus else 0,
            memMB=round(cluster.memory_gib * 1024),
            capabilities={"node.kubernetes.io/instance-type": cluster.instance_type} if cluster.instance_type else {},
        ),
    )
    if any(name in role.env for name in CREDENTIALS) and not here:
        raise AssertionError("no credential is ever written into a pod's spec")
    return AppDef(name="tokenmill-training", roles=[role])
