"""What both charts make of a bare node, run pod by pod with its own command, user, read-only root and volumes.

The CPU profile of a trial: SeaweedFS and MLflow, the Job that makes the bucket, `helm test`; then a model out of that bucket,
verified, served by vLLM, and asked.
"""

import json
import threading

import pods
import pytest
import requests
from checkpoints import reciting_llama
from release_facts import FACTS
from rendered import needs_helm, render

from tokenmill.deployment.publish import publish
from tokenmill.deployment.release import pin

pytestmark = [pytest.mark.containers, needs_helm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def namespace(client, tmp_path_factory):
    """Both charts' objects, as `helm install` of the trial makes them."""
    objects = render("tokenmill", "cpu").objects + render("inference", "cpu").objects
    network = client.networks.create("tokenmill-charts")
    room = tmp_path_factory.mktemp("volumes")
    for folder in (room, *room.parents):
        if "pytest" in str(folder):
            folder.chmod(0o711)
    space = pods.Namespace(client, objects, room, network)
    yield space
    space.close()
    network.remove()


@pytest.fixture(scope="module")
def platform(namespace):
    """The services of the chart `tokenmill`, after its Job."""
    store = namespace.start(namespace.one("StatefulSet", "rel-tokenmill-object-store")).wait_ready()
    mlflow = namespace.start(namespace.one("Deployment", "rel-tokenmill-mlflow")).wait_ready()
    prepared = namespace.completed(namespace.one("Job", "rel-tokenmill-prepare"))
    return store, mlflow, prepared


@pytest.fixture(scope="module")
def engine_pod(namespace, platform, tmp_path_factory):
    """The chart `inference`, serving a release that was put into the bucket; and the release's digest."""
    store, *_ = platform
    checkpoint = reciting_llama(tmp_path_factory.mktemp("release") / "reciter", "Token")
    pin(checkpoint, FACTS)
    keys = namespace.secret("tokenmill-store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENMILL_S3_ENDPOINT", store.url("s3"))
        patch.setenv("AWS_ACCESS_KEY_ID", keys["access-key"].decode())
        patch.setenv("AWS_SECRET_ACCESS_KEY", keys["secret-key"].decode())
        digest = publish(checkpoint, "s3://tokenmill/releases/chat")
    return namespace.start(namespace.one("Deployment", "rel-inference")).wait_ready(), digest


def test_the_job_makes_the_bucket_and_helms_test_is_content(namespace, platform):
    *_, prepared = platform
    assert "bucket   tokenmill made" in prepared
    said = namespace.completed(namespace.one("Pod", "rel-tokenmill-test"))
    assert "can what leases need" in said


def test_the_tracking_server_keeps_runs_and_artifacts(platform):
    _, server, _ = platform
    url = server.url("http")
    made = requests.post(
        f"{url}/api/2.0/mlflow/experiments/create",
        json={"name": "trial"},
        headers={"Host": "localhost:5000"},
        timeout=60,
    )
    assert made.ok, made.text
    put = requests.put(
        f"{url}/api/2.0/mlflow-artifacts/artifacts/trial/note.txt", data=b"kept in the bucket",
        headers={"Host": "localhost:5000"}, timeout=60,
    )  # fmt: skip
    assert put.ok, put.text + server.said()[-2000:]
    got = requests.get(
        f"{url}/api/2.0/mlflow-artifacts/artifacts/trial/note.txt", headers={"Host": "localhost:5000"}, timeout=60
    )
    assert got.content == b"kept in the bucket"


def test_the_model_of_the_bucket_answers_a_chat_and_helms_test_is_content(namespace, engine_pod):
    pod, digest = engine_pod
    test = namespace.one("Pod", "rel-inference-test")
    (container,) = test["spec"]["containers"]
    url = "http://rel-inference:80"
    assert container["args"][0] == url
    container["args"][0] = "http://rel-inference:8000"  # Docker has no Service that maps ports
    said = namespace.completed(test)
    container["args"][0] = url
    assert "answered  Token" in said
    assert requests.get(f"{pod.url('http')}/health", timeout=10).headers["x-model-digest"] == digest


def test_a_pod_that_must_go_ends_its_streams_first(namespace, engine_pod):
    pod, _ = engine_pod
    url = pod.url("http")
    key = namespace.secret("rel-inference-api-key")["api-key"].decode()
    body = {"model": "chat", "prompt": "hi", "max_tokens": 100, "ignore_eos": True, "stream": True}
    body |= {"stream_options": {"include_usage": True}}
    begun, said = threading.Event(), []

    def stream():
        headers = {"Authorization": f"Bearer {key}"}
        with requests.post(f"{url}/v1/completions", json=body, headers=headers, stream=True, timeout=120) as answer:
            for line in filter(None, answer.iter_lines()):
                begun.set()
                said.append(line)

    asking = threading.Thread(target=stream)
    asking.start()
    assert begun.wait(60)
    drained, code = pod.stop()
    asking.join(60)
    assert drained == 0
    *_, usage, end = said
    assert end == b"data: [DONE]"
    assert json.loads(usage.removeprefix(b"data: "))["usage"]["completion_tokens"] == 100
    assert code in (0, 143)  # vLLM's own end, or SIGTERM's
