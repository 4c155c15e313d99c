"""Launching ranks through torchx."""

import re
import shlex

import pytest
from kubernetes.client import ApiClient
from torchx.runner import get_runner

from tokenmill.errors import ConfigError
from tokenmill.launch.application import dry_run
from tokenmill.training.settings import TrainingExecution

pytestmark = pytest.mark.integration


def test_torchx_keeps_quiet_where_the_root_logger_tells_everything(run_python, tmp_path):
    told = run_python(
        "import logging, sys\n"
        "logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)\n"
        "events = logging.getLogger('torchx-events-null')\n"
        "events.addHandler(logging.StreamHandler(sys.stdout))\n"
        "from tokenmill.launch.training import _run\n"
        "from tokenmill.training.settings import TrainingExecution\n"
        "from tokenmill.training.watchdog import Watchdog\n"
        "from tokenmill.store import open_store\n"
        f"watchdog = Watchdog(open_store('file://{tmp_path}'), 'work/0/1', 1, 60)\n"
        "print(_run('file:///nowhere/work/0/1/spec.json', TrainingExecution(ranks=1), watchdog)[0])"
    )
    assert told.splitlines()[-1] == "FAILED"
    assert "torchx" not in told


URI = "s3://bucket/store/work/0a1b/attempt-7/spec.json"
LAID_OUT = TrainingExecution(
    ranks=16,
    nodes=2,
    scheduler="kubernetes",
    rendezvous_port=29600,
    cluster={"namespace": "llm", "queue": "gpu", "cpus": 64},
)


@pytest.fixture
def pods_environment(monkeypatch):
    """A launcher's pod: its image, and credentials that must not be copied."""
    for name, value in {
        "TOKENMILL_IMAGE": "registry.example/tokenmill-trainer:1",
        "TOKENMILL_STORE": "s3://bucket/store",
        "NCCL_DEBUG": "WARN",
        "AWS_ACCESS_KEY_ID": "planted-id",
        "AWS_SECRET_ACCESS_KEY": "planted-secret",
        "MLFLOW_TRACKING_PASSWORD": "planted-password",
    }.items():
        monkeypatch.setenv(name, value)


def job(execution):
    with get_runner() as runner:
        return ApiClient().sanitize_for_serialization(dry_run(runner, URI, execution, "/tmp").request.resource)


def test_a_volcano_job_has_a_pod_a_node_that_meet_on_the_first(pods_environment):
    made = job(LAID_OUT)
    assert made["apiVersion"] == "batch.volcano.sh/v1alpha1" and made["spec"]["queue"] == "gpu"
    assert "svc" in made["spec"]["plugins"]  # which sets VC_TRAINER_0_HOSTS
    assert len(made["spec"]["tasks"]) == 2
    for task in made["spec"]["tasks"]:
        assert task["replicas"] == 1
        assert task["template"]["metadata"]["labels"]["tokenmill.io/metrics"] == "true"
        pod = task["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == "registry.example/tokenmill-trainer:1"
        assert container["resources"]["limits"] == {"cpu": "64000m", "memory": "409600M", "nvidia.com/gpu": "8"}
        shell, flag, said = container["command"]
        assert (shell, flag) == ("bash", "-c")
        words = shlex.split(said)
        assert words[-3:] == ["-m", "tokenmill.training.worker", URI]
        assert {"--nnodes=2", "--nproc_per_node=8", "--rdzv_id=0a1b-attempt-7-spec.json"} <= set(words)
        first = re.search(r"--rdzv_endpoint=\$\{(\w+):=localhost\}:29600 ", said)[1]
        assert first == "VC_TRAINER_0_HOSTS" or (first, "localhost") in told(container)  # the first one's own
        assert container["ports"][0]["containerPort"] == 29600
        assert pod["terminationGracePeriodSeconds"] == 120
        assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"


def told(container):
    return {(one["name"], one["value"]) for one in container["env"] if "value" in one}


def test_no_credential_is_in_a_volcano_job_but_by_reference(pods_environment):
    made = job(LAID_OUT)
    assert "planted" not in repr(made)
    for task in made["spec"]["tasks"]:
        (container,) = task["template"]["spec"]["containers"]
        references = {
            one["name"]: one["valueFrom"] for one in container["env"] if "secretKeyRef" in one.get("valueFrom", {})
        }
        assert references == {
            "AWS_ACCESS_KEY_ID": {"secretKeyRef": {"name": "tokenmill-store", "key": "access-key"}},
            "AWS_SECRET_ACCESS_KEY": {"secretKeyRef": {"name": "tokenmill-store", "key": "secret-key"}},
        }
        assert ("TOKENMILL_STORE", "s3://bucket/store") in told(container)
        assert not {"TOKENMILL_PARENT", "PATH", "HOME"} & {name for name, _ in told(container)}  # this machine's own


def test_pods_without_an_image_are_refused_in_one_line(monkeypatch):
    monkeypatch.delenv("TOKENMILL_IMAGE", raising=False)
    with get_runner() as runner, pytest.raises(ConfigError, match="TOKENMILL_IMAGE"):
        dry_run(runner, URI, LAID_OUT, "/tmp")


def test_ranks_that_nodes_cannot_share_alike_are_refused():
    with pytest.raises(ValueError, match="5 ranks cannot be spread over 2 nodes"):
        TrainingExecution(ranks=5, nodes=2)
