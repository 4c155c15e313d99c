"""The whole life of a pico model as on a cluster: every task in its image under `kfp.local.DockerRunner`, not root, with the
variables that a profile takes from the chart's ConfigMap and Secret; the chart's own SeaweedFS and MLflow beside; and what came out served
by the other chart. The same life in processes of this machine must come to the same digests."""

import mlflow
import pods
import pytest
from kfp import local
from life import Life
from rendered import needs_helm, render

from tokenmill.images import CURATION, DEPLOYER, EVALUATOR, TRAINER
from tokenmill.lineage import resolve
from tokenmill.pipelines.package import build, load_profile
from tokenmill.store import open_store
from tokenmill.tracking import read_events

pytestmark = [pytest.mark.containers, needs_helm, pytest.mark.timeout(1800)]
RUN, MODEL = "containers-1", "internlm2-chat-pico"
NOTHING_SERVES = {"TOKENMILL_SERVE_PYTHON": "/nowhere/python"}  # no image of a step holds an engine


def wiring(namespace):
    """Variables of a task's pod, as the profile for CPUs takes them out of the chart's objects."""
    settings = load_profile("cpu")["all"]["kubernetes"]
    found = {}
    for secret in settings["secretAsEnv"]:
        values = namespace.secret(secret["secretName"])
        found |= {one["envVar"]: values[one["secretKey"]].decode() for one in secret["keyToEnv"]}
    for config in settings["configMapAsEnv"]:
        values = namespace.one("ConfigMap", config["configMapName"])["data"]
        found |= {one["envVar"]: values[one["configMapKey"]] for one in config["keyToEnv"]}
    return found


@pytest.fixture(scope="module")
def events(engine, namespace, platform, reach, tmp_path_factory):
    """What the life in containers wrote down."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (reach | {"DOCKER_HOST": engine}).items():
            patch.setenv(name, value)
        local.init(
            runner=local.DockerRunner(
                environment=wiring(namespace) | {"TOKENMILL_RUN_KEY": RUN},
                network=namespace.network.name,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
            ),
            pipeline_root=str(pods.open_to_all(tmp_path_factory.mktemp("outputs"))),
        )
        build("lifecycle", "pico")()
        return list(read_events(open_store(reach["TOKENMILL_STORE"]), RUN))


@pytest.fixture
def finished(events):
    """Task → what it finished with."""
    return {event.task: event.data for event in events if event.kind == "step_finished"}


def digests(finished):
    return {role: made["digest"] for role, made in finished["outputs"].items()}


def test_the_life_ends_well_and_every_task_ran_in_the_image_that_it_names(events, finished, reached):
    assert [event.data["status"] for event in events if event.kind == "run_closed"] == ["succeeded"]
    store, ran = open_store(reached["TOKENMILL_STORE"]), {}
    for task, data in finished.items():
        for digest in digests(data).values():
            ran.setdefault(store.get_manifest(digest).observed["image"], set()).add(task)
    assert set(ran) == {CURATION, TRAINER, EVALUATOR, DEPLOYER}
    assert {"curation.order_code", "rlhf.decide.round-2"} <= ran[CURATION]
    assert {"pretraining.pretrain.long", "rlhf.ppo.round-2"} <= ran[TRAINER]
    assert "evaluation.evaluate.chat" in ran[EVALUATOR]
    assert {"deployment.bundle", "deployment.promote"} <= ran[DEPLOYER]


def test_the_tracking_server_knows_the_run_and_leads_to_its_release(finished, reached):
    client = mlflow.MlflowClient(reached["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("tokenmill/pico")
    (parent,) = client.search_runs([experiment.experiment_id], f"tags.`tokenmill.run_key` = '{RUN}'")
    assert parent.info.status == "FINISHED"
    assert client.get_model_version_by_alias(MODEL, "candidate").version == "1"
    store = open_store(reached["TOKENMILL_STORE"])
    assert resolve(store, f"models:/{MODEL}@candidate") == finished["deployment.bundle"]["outputs"]["output"]["digest"]


def test_the_release_is_fetched_by_its_alias_served_and_answers(namespace, finished):
    release = finished["deployment.bundle"]["outputs"]["output"]["digest"]
    model = {"uri": f"models:/{MODEL}@candidate", "digest": release, "unpinned": False}
    served = pods.Namespace(
        namespace.client,
        namespace.objects + render("inference", "cpu", {"model": model, "fullnameOverride": "pico"}).objects,
        namespace.room,
        namespace.network,
    )
    try:
        served.start(served.one("Deployment", "pico")).wait_ready()
        test = pods.at_its_own_port(served.one("Pod", "pico-test"), "http://pico:80", "http://pico:8000")
        assert "answered" in served.completed(test)  # and the digest is that of the values
    finally:
        served.close()


def test_the_same_life_in_processes_comes_to_the_same_digests(finished, tmp_path):
    here = Life(tmp_path, "pico", NOTHING_SERVES).run(timeout=900)
    assert set(finished) == set(here.finished)
    differ = [task for task in sorted(here.pure) if digests(finished[task]) != digests(here.finished[task])]
    assert differ == []
