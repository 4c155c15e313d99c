"""The whole life of a pico model in the containers of a cluster, under `kfp.local.DockerRunner`: not root, the store on a real
S3 server, a real MLflow beside; and the same life in processes of this machine, which must come to the same digests."""

import os

import mlflow
import pytest
import servers
from kfp import local
from life import Life

from tokenmill.images import CURATION, DEPLOYER, EVALUATOR, TRAINER
from tokenmill.lineage import resolve
from tokenmill.pipelines.package import build
from tokenmill.store import open_store
from tokenmill.tracking import read_events

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]
RUN, MODEL = "containers-1", "internlm2-chat-pico"
NOTHING_SERVES = {"TOKENMILL_SERVE_PYTHON": "/nowhere/python"}  # no image of a step holds an engine


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    server = servers.MLflowServer(tmp_path_factory.mktemp("mlflow"))
    yield server.start()
    server.stop()


@pytest.fixture(scope="module")
def environment(tmp_path_factory, tracking):
    """What a pod of a pipeline gets: store, keys, tracking server."""
    with servers.seaweedfs(tmp_path_factory.mktemp("s3")) as s3:
        yield s3.environment | {"TOKENMILL_STORE": s3.uri("team"), "MLFLOW_TRACKING_URI": tracking}


@pytest.fixture(scope="module")
def in_containers(engine, images, environment, tmp_path_factory):
    """The lifecycle's events, by container; what it left in the store and in the registry is there too."""
    outputs = tmp_path_factory.mktemp("outputs")
    for folder in (outputs, *outputs.parents):
        if folder.stat().st_uid == os.getuid() and "pytest" in str(folder):
            folder.chmod(0o711)
    outputs.chmod(0o777)  # the containers' user, whoever that is, leaves KFP's pointers there
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("DOCKER_HOST", engine)
        local.init(
            runner=local.DockerRunner(
                environment=environment | {"TOKENMILL_RUN_KEY": RUN},
                network_mode="host",  # where the servers listen
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
            ),
            pipeline_root=str(outputs),
        )
        build("lifecycle", "pico")()
        yield list(read_events(open_store(environment["TOKENMILL_STORE"]), RUN))


def finished(events):
    return {event.task: event.data for event in events if event.kind == "step_finished"}


def test_the_life_ends_well_and_every_task_ran_in_the_image_that_it_names(in_containers, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert [event.data["status"] for event in in_containers if event.kind == "run_closed"] == ["succeeded"]
    store, made = open_store(environment["TOKENMILL_STORE"]), finished(in_containers)
    images = {}
    for task, data in made.items():
        for output in data["outputs"].values():
            images.setdefault(store.get_manifest(output["digest"]).observed["image"], set()).add(task)
    assert set(images) == {CURATION, TRAINER, EVALUATOR, DEPLOYER}
    assert {"curation.order_code", "rlhf.decide.round-2"} <= images[CURATION]
    assert {"pretraining.pretrain.long", "rlhf.ppo.round-2"} <= images[TRAINER]
    assert "evaluation.evaluate.chat" in images[EVALUATOR]
    assert {"deployment.bundle", "deployment.promote"} <= images[DEPLOYER]


def test_the_same_life_in_processes_comes_to_the_same_digests(in_containers, tmp_path):
    here = Life(tmp_path, "pico", NOTHING_SERVES).run(timeout=900)
    there = finished(in_containers)
    assert set(there) == set(here.finished)
    differ = {
        task: (there[task]["outputs"], here.finished[task]["outputs"])
        for task in sorted(here.pure)
        if {r: m["digest"] for r, m in there[task]["outputs"].items()}
        != {r: m["digest"] for r, m in here.finished[task]["outputs"].items()}
    }
    assert differ == {}


def test_the_tracking_server_knows_the_run_and_its_model(in_containers, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
    version = client.get_model_version_by_alias(MODEL, "candidate")
    store = open_store(environment["TOKENMILL_STORE"])
    release = store.get_manifest(resolve(store, f"models:/{MODEL}@candidate"))
    assert version.version == "1"
    assert release.digest == finished(in_containers)["deployment.bundle"]["outputs"]["output"]["digest"]
