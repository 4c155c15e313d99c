"""What the inference chart would run in its pods, run here: the init container's command against a real S3 server, the engine's
command on the real vLLM, the test pod's command, and the preStop hook in the middle of a stream.

No kubelet and no container: paths in the rendered commands are those of this machine.
"""

import asyncio
import itertools
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
import servers
import yaml
from checkpoints import reciting_llama
from kubernetes_api import kubernetes_api
from pod_process import CACHE
from release_facts import FACTS
from rendered import needs_helm, render

from tokenmill.deployment.canary import Limits
from tokenmill.deployment.load import Crowd
from tokenmill.deployment.observe import Probe, Prober
from tokenmill.deployment.publish import publish
from tokenmill.deployment.release import pin
from tokenmill.deployment.rollout import Plan, roll_out
from tokenmill.deployment.server import serve_python, serving_available
from tokenmill.deployment.traffic import KubernetesApi, Switch

AVAILABLE, REASON = serving_available()
pytestmark = [pytest.mark.integration, needs_helm, pytest.mark.skipif(not AVAILABLE, reason=REASON)]
KEY, MODE = "the-key-of-the-secret", "cpu"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with servers.seaweedfs(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def pod(tmp_path_factory, bucket):
    """Start the pod: init container, then the engine; yields its address, digest and command of the hook."""
    room = tmp_path_factory.mktemp("pod")
    checkpoint = reciting_llama(room / "reciter", "Token")
    pin(checkpoint, FACTS)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        digest = publish(checkpoint, bucket.uri("releases/chat"))
    rendered = render("inference", MODE)
    spec = rendered.one("Deployment")["spec"]["template"]["spec"]
    files = rendered.one("ConfigMap")["data"]
    (room / "etc").mkdir()
    for name, text in files.items():
        (room / "etc" / name).write_text(text)
    (port,) = servers.free_ports(1)

    def here(argument):
        return (
            argument.replace("/models", str(room / "models")).replace("/etc/tokenmill", str(room / "etc"))
            .replace("0.0.0.0", "127.0.0.1").replace("8000", str(port))
        )  # fmt: skip

    first = spec["initContainers"][0]
    environment = {"PATH": os.environ["PATH"], "HOME": str(room), "PYTHONPATH": os.pathsep.join(sys.path)}
    fetched = subprocess.run(
        [sys.executable, *first["command"][1:], *map(here, first["args"])],
        env=environment | bucket.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert fetched.returncode == 0, fetched.stderr
    engine = spec["containers"][0]
    environment = {"PATH": os.environ["PATH"], "VLLM_API_KEY": KEY}
    environment |= {e["name"]: here(e["value"]) for e in engine["env"] if "value" in e}
    environment |= {"HOME": str(room), "VLLM_CACHE_ROOT": str(CACHE)}
    with (room / "vllm.log").open("wb") as log:
        process = subprocess.Popen(
            [str(serve_python()), *engine["command"][1:], *map(here, engine["args"])],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        await_health(f"http://127.0.0.1:{port}", process, room / "vllm.log")
        hook = [sys.executable, *map(here, engine["lifecycle"]["preStop"]["exec"]["command"][1:])]
        yield f"http://127.0.0.1:{port}", digest, hook, process, room / "vllm.log"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()


def await_health(url, process, log, timeout_s=200):
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return
        except requests.RequestException:
            pass
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.3)


def test_the_test_pods_command_is_content(pod):
    url, digest, *_, log = pod
    command = render("inference", MODE).one("Pod")["spec"]["containers"][0]
    arguments = [url, *command["args"][1:], f"--digest={digest}"]
    asked = subprocess.run(
        [sys.executable, *command["command"][1:], *arguments],
        env=os.environ | {"API_KEY": KEY, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr + log.read_text()[-2000:]
    assert "answered  Token" in asked.stdout


def test_every_answer_names_the_model_and_only_v1_wants_the_key(pod):
    url, digest, *_ = pod
    assert requests.get(f"{url}/health", timeout=10).headers["x-model-digest"] == digest
    refused = requests.get(f"{url}/v1/models", timeout=10)
    assert refused.status_code == 401
    assert "vllm:num_requests_running" in requests.get(f"{url}/metrics", timeout=10).text


@contextmanager
def in_front_of(url, delay_s=0.0, fails=0):
    """A candidate: the same engine behind a proxy that is slow, or fails every `fails`th request."""
    asked = itertools.count(1)

    class Proxy(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def forward(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.command == "POST":
                time.sleep(delay_s)
                if fails and next(asked) % fails == 0:
                    return self.send_error(500)
            headers = {k: v for k, v in self.headers.items() if k.lower() in ("authorization", "content-type")}
            with requests.request(
                self.command, url + self.path, data=body, headers=headers, stream=True, timeout=60
            ) as got:
                self.send_response(got.status_code)
                for name in ("content-type", "x-model-digest"):
                    self.send_header(name, got.headers.get(name, ""))
                self.end_headers()
                for piece in got.iter_content(None):
                    self.wfile.write(piece)
                    self.wfile.flush()

        do_GET = do_POST = forward

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("fault", "expect", "found"),
    [
        ({}, "^Token$", set()),
        ({"delay_s": 2.0}, "^Token$", {"probes: TTFT p95"}),
        ({"fails": 3}, "^Token$", {"probes: errors"}),
        ({}, "^Other$", {"quality"}),
    ],
    ids=["as good", "slow", "failing", "wrong"],
)
def test_a_canary_of_a_real_engine_is_promoted_or_rolled_back(pod, tmp_path, fault, expect, found):
    url, digest, *_ = pod
    limits = Limits(latency_floor_s=1.0, min_quality=0.5)  # a busy machine is no regression
    probes = [Probe(prompt=f"{number}", expect=expect) for number in range(6)]
    with kubernetes_api(tmp_path) as (api, kubeconfig), in_front_of(url, **fault) as candidate:
        where = "/api/v1/namespaces/llm/services/chat"
        spec = {
            "type": "ClusterIP",
            "selector": {"tokenmill.io/track": "stable"},
            "ports": [{"name": "http", "port": 80}],
        }
        api.put(where, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat"}, "spec": spec})
        server = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        plan = Plan(
            stable=url, candidate=candidate, model="chat", digest=digest, kind="Service", namespace="llm", name="chat",
            candidate_service="chat-candidate", steps=[0], ready_seconds=5, step_seconds=1, probes=probes, limits=limits,
        )  # fmt: skip
        switch = Switch(KubernetesApi(server, "token", True), "Service", "llm", "chat", "chat-candidate")
        promoted, checks = roll_out(plan, switch, Prober("chat", probes, key=KEY))
        assert {check.name for check in checks if not check.passed} == found
        users = api.objects[where]["spec"]["selector"]["tokenmill.io/track"]
        assert (promoted, users) == ((True, "candidate") if not found else (False, "stable"))


def test_twenty_clients_lose_nothing_when_the_pod_has_to_go(pod):
    """vLLM aborts what runs at SIGTERM: streams end whole only because the hook waited for them."""
    url, _, hook, process, _ = pod
    crowd = Crowd(url, "chat", clients=20, key=KEY, max_tokens=64)
    ended = {}

    def leave():
        time.sleep(5)
        crowd.close()  # what taking a pod out of its Service does: nobody new comes
        running = requests.get(f"{url}/metrics", timeout=10).text
        ended["running"] = sum(
            map(float, re.findall(r"^vllm:num_requests_running\{.*?\} (.*)$", running, re.MULTILINE))
        )
        ended["hook"] = subprocess.run([*hook[:3], "0", *hook[4:]], check=False, timeout=120).returncode
        process.terminate()

    leaving = threading.Thread(target=leave)
    leaving.start()
    seen = asyncio.run(crowd.ask(10))
    leaving.join()
    assert ended["running"] > 5  # it had something to wait for
    assert ended["hook"] == 0 and process.wait(60) is not None
    assert seen.lost == {} and seen.whole >= 20
    assert seen.seconds < 60 and seen.to_json()["ttft_ms_p95"] > 0
