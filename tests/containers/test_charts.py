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
from rendered import needs_helm

from tokenmill.deployment.publish import publish
from tokenmill.deployment.release import pin

pytestmark = [pytest.mark.containers, needs_helm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def engine_pod(namespace, reach, tmp_path_factory):
    """The chart `inference`, serving a release that was put into the bucket; and the release's digest."""
    checkpoint = reciting_llama(tmp_path_factory.mktemp("release") / "reciter", "Token")
    pin(checkpoint, FACTS)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in reach.items():
            patch.setenv(name, value)
        digest = publish(checkpoint, "s3://tokenmill/releases/chat")
    return namespace.start(namespace.one("Deployment", "rel-inference")).wait_ready(), digest


def test_the_job_makes_the_bucket_and_helms_test_is_content(namespace, platform):
    *_, prepared = platform
    assert "bucket   tokenmill made" in prepared
    said = namespace.completed(namespace.one("Pod", "rel-tokenmill-test"))
    assert "can what leases need" in said


def test_the_tracking_server_keeps_runs_and_artifacts(platform):
    _, server, _ = platform
    api = f"{server.url('http')}/api/2.0"
    made = requests.post(f"{api}/mlflow/experiments/create", json={"name": "trial"}, timeout=60)
    assert made.ok, made.text
    note = f"{api}/mlflow-artifacts/artifacts/trial/note.txt"
    put = requests.put(note, data=b"kept in the bucket", timeout=60)
    assert put.ok, put.text + server.said()[-2000:]
    assert requests.get(note, timeout=60).content == b"kept in the bucket"
    assert requests.get(note, headers={"Host": "evil.example.com"}, timeout=60).status_code == 403


def test_the_model_of_the_bucket_answers_a_chat_and_helms_test_is_content(namespace, engine_pod):
    pod, digest = engine_pod
    test = namespace.one("Pod", "rel-inference-test")
    said = namespace.completed(pods.at_its_own_port(test, "http://rel-inference:80", "http://rel-inference:8000"))
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
