"""A canary end to end: probes over HTTP, users' metrics in a real Prometheus, an API server that is asked and told."""

import json
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from servers import free_ports

from tokenmill.deployment.ask import Refused, ask
from tokenmill.deployment.canary import Limits
from tokenmill.deployment.observe import Probe, Prober, Prometheus, traffic
from tokenmill.deployment.rollout import Plan, roll_out
from tokenmill.deployment.traffic import KubernetesApi, Switch
from tokenmill.errors import UserError

pytestmark = pytest.mark.integration
KEY, DIGEST = "the-key", "d" * 64
PROBES = [Probe(prompt="What is 7 + 5?", expect=r"\b12\b"), Probe(prompt="Hello", expect=".")]


class Track:
    """An OpenAI-compatible server of one track whose behaviour a test sets, with vLLM's metrics about it."""

    def __init__(self, answer="It is 12 .", digest=DIGEST):
        self.answer, self.digest, self.delay_s, self.broken, self.healthy = answer, digest, 0.0, False, True
        self.registry = CollectorRegistry()
        self.requests = Counter("http_requests_total", "", ["handler", "status"], registry=self.registry)
        self.ttft = Histogram("vllm:time_to_first_token_seconds", "", registry=self.registry)
        self.itl = Histogram("vllm:inter_token_latency_seconds", "", registry=self.registry)
        self.url = ""

    def users(self, count, *, failed=0, ttft=0.02, itl=0.01):
        """What users' requests would have left in the metrics."""
        for number in range(count):
            self.requests.labels("/v1/chat/completions", "5xx" if number < failed else "2xx").inc()
            self.ttft.observe(ttft)
            self.itl.observe(itl)


@contextmanager
def serving(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def send(self, status, body, kind="application/json", **headers):
        self.send_response(status)
        for name, value in ({"content-type": kind, "content-length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return json.loads(self.rfile.read(int(self.headers["content-length"])))


@contextmanager
def running(track):
    class Handler(Quiet):
        def do_GET(self):
            if self.path == "/metrics":
                self.send(200, generate_latest(track.registry), "text/plain; version=0.0.4")
            elif self.path == "/health":
                self.send(200 if track.healthy else 503, b"")
            else:
                self.send(200, json.dumps({"data": [{"id": "chat"}]}).encode())

        def do_POST(self):
            wanted = self.body()
            if self.headers.get("authorization") != f"Bearer {KEY}":
                return self.send(401, b"{}")
            header = {"x-model-digest": track.digest} if track.digest else {}
            time.sleep(track.delay_s)
            if not wanted.get("stream"):
                message = {"choices": [{"message": {"content": track.answer}}]}
                return self.send(200, json.dumps(message).encode(), **header)
            words = [word + " " for word in track.answer.split(" ")]
            words[-1] = words[-1][:-1]
            events = [{"choices": [{"delta": {"role": "assistant"}}]}]
            events += [{"choices": [{"delta": {"content": word}}]} for word in words]
            lines = [f"data: {json.dumps(event)}\n\n" for event in events]
            lines += [] if track.broken else ["data: [DONE]\n\n"]
            return self.send(200, "".join(lines).encode(), "text/event-stream", **header)

    with serving(Handler) as track.url:
        yield track


@pytest.fixture
def tracks():
    with running(Track()) as stable, running(Track()) as candidate:
        yield stable, candidate


class Cluster:
    """The two paths of the API server that the canary uses, over HTTP; remembers who applied what."""

    def __init__(self, kind):
        ready = {
            "metadata": {"name": "chat", "namespace": "llm", "labels": {"a": "b"}, "uid": "u", "managedFields": []}
        }
        backends = [{"name": "chat-stable", "weight": 90}, {"name": "chat-candidate", "weight": 10}]
        spec = {"rules": [{"backendRefs": backends}]}
        if kind == "Service":
            spec = {
                "selector": {"app.kubernetes.io/name": "inference", "tokenmill.io/track": "stable"},
                "clusterIP": "10.0.0.1",
                "type": "NodePort",
                "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
            }
        self.kind, self.applied, self.refuses = kind, [], False
        self.object = {"apiVersion": "v1", "kind": kind, "spec": spec, "status": {"x": 1}} | ready

    def weights(self):
        if self.kind == "Service":
            return self.object["spec"]["selector"]["tokenmill.io/track"]
        return {b["name"]: b["weight"] for b in self.object["spec"]["rules"][0]["backendRefs"]}


@contextmanager
def api_server(cluster):
    class Handler(Quiet):
        def do_GET(self):
            assert self.headers["authorization"] == "Bearer token"
            self.send(200, json.dumps(cluster.object).encode())

        def do_PATCH(self):
            body, query = self.body(), parse_qs(urlsplit(self.path).query)
            if cluster.refuses:
                return self.send(403, b'{"message": "forbidden"}')
            cluster.applied.append((urlsplit(self.path).path, query, self.headers["content-type"], body))
            cluster.object |= {"spec": cluster.object["spec"] | body["spec"]}
            return self.send(200, json.dumps(cluster.object).encode())

    with serving(Handler) as url:
        yield url


@pytest.fixture(params=["HTTPRoute", "Service"])
def cluster(request):
    cluster = Cluster(request.param)
    with api_server(cluster) as cluster.url:
        yield cluster


def plan(tracks, kind="HTTPRoute", **more):
    stable, candidate = tracks
    return Plan(
        stable=stable.url, candidate=candidate.url, model="chat", digest=DIGEST, kind=kind, namespace="llm", name="chat",
        candidate_service="chat-candidate", steps=[10, 50], ready_seconds=1, step_seconds=1, rounds=2, probes=PROBES,
        **more,
    )  # fmt: skip


def roll(tracks, cluster, **more):
    what = plan(tracks, cluster.kind, **more)
    switch = Switch(KubernetesApi(cluster.url, "token", True), what.kind, "llm", "chat", "chat-candidate")
    seen = []
    move, switch.candidate_gets = switch.candidate_gets, lambda percent: (seen.append(percent), move(percent))
    promoted, checks = roll_out(what, switch, Prober("chat", PROBES, key=KEY), sleep=lambda seconds: None)
    return promoted, {check.name for check in checks if not check.passed}, seen


def everybody(cluster, at):
    if cluster.kind == "Service":
        return cluster.weights() == at
    other = {"stable": "candidate", "candidate": "stable"}[at]
    return cluster.weights() == {f"chat-{at}": 100, f"chat-{other}": 0}


def test_a_candidate_as_good_as_stable_gets_everybody(tracks, cluster):
    promoted, failed, seen = roll(tracks, cluster)
    assert promoted and failed == set() and everybody(cluster, "candidate")
    assert seen == ([10, 50, 100] if cluster.kind == "HTTPRoute" else [0, 100])


def test_what_is_applied_is_whole_and_helms(tracks, cluster):
    roll(tracks, cluster)
    path, query, kind, body = cluster.applied[-1]
    assert (
        path
        == {
            "HTTPRoute": "/apis/gateway.networking.k8s.io/v1/namespaces/llm/httproutes/chat",
            "Service": "/api/v1/namespaces/llm/services/chat",
        }[cluster.kind]
    )
    assert query == {"fieldManager": ["helm"], "force": ["true"]} and kind == "application/apply-patch+yaml"
    assert body["metadata"] == {"name": "chat", "namespace": "llm", "labels": {"a": "b"}} and "status" not in body
    if cluster.kind == "Service":
        assert body["spec"].keys() == {"type", "selector", "ports"} and body["spec"]["ports"] == [
            {"name": "http", "port": 80}
        ]


def faults():
    def wrong(candidate):
        candidate.answer = ""

    def breaks(candidate):
        candidate.broken = True

    def slow(candidate):
        candidate.delay_s = 0.3

    def other(candidate):
        candidate.digest = "e" * 64

    return [(wrong, "quality"), (breaks, "probes: errors"), (slow, "probes: TTFT p95"), (other, "digest")]


@pytest.mark.parametrize(("fault", "found"), faults(), ids=lambda v: v if isinstance(v, str) else "")
def test_a_worse_candidate_gets_nobody(tracks, cluster, fault, found):
    fault(tracks[1])
    promoted, failed, seen = roll(tracks, cluster, limits=Limits(min_quality=0.5))
    assert not promoted and found in failed and everybody(cluster, "stable")
    assert 100 not in seen and seen[-1] == 0


def test_a_candidate_that_never_gets_ready_gets_nobody(tracks, cluster):
    tracks[1].healthy = False
    with pytest.raises(UserError, match="was not healthy within 1 s"):
        roll(tracks, cluster)
    assert everybody(cluster, "stable")


def test_a_judge_that_cannot_judge_leaves_everybody_at_stable(tracks, cluster):
    (away,) = free_ports(1)
    with pytest.raises(UserError, match="Prometheus at .* did not answer"):
        roll(tracks, cluster, prometheus=Prometheus(url=f"http://127.0.0.1:{away}", selector='job="x"'))
    assert everybody(cluster, "stable")


def test_an_api_server_that_refuses_is_said(tracks, cluster):
    cluster.refuses = True
    with pytest.raises(UserError, match="the API server refused PATCH .*forbidden"):
        roll(tracks, cluster)


@contextmanager
def prometheus(folder, tracks):
    (port,) = free_ports(1)
    targets = [
        {
            "targets": [track.url.removeprefix("http://")],
            "labels": {"track": name, "namespace": "llm", "service": "chat"},
        }
        for name, track in zip(("stable", "candidate"), tracks, strict=True)
    ]
    config = {
        "scrape_configs": [
            {"job_name": "vllm", "scrape_interval": "500ms", "scrape_timeout": "500ms", "static_configs": targets}
        ]
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield Prometheus(url=f"http://127.0.0.1:{port}", selector='namespace="llm",service="chat"')
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus: apt-get install prometheus")
def test_users_requests_are_read_from_a_real_prometheus(tracks, tmp_path):
    stable, candidate = tracks
    stable.users(1), candidate.users(1)  # a counter must be seen before it can increase
    with prometheus(tmp_path, tracks) as where:
        await_requests(where, 0)
        stable.users(200)
        candidate.users(200, failed=50, ttft=3.0, itl=0.4)
        seen_stable, seen_candidate = await_requests(where, 150)
    assert seen_stable.errors == 0 and seen_stable.ttft_p95 < 0.1
    assert 0.15 < seen_candidate.error_rate < 0.35 and seen_candidate.ttft_p95 > 1 and seen_candidate.itl_p95 > 0.2


def await_requests(where, count, timeout_s=30):
    """Both tracks, once both have seen more than `count` requests."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            seen = traffic(where, 60)
            enough = min(track.requests for track in seen) >= count
            if enough and (seen[1].ttft_p95 if count else all_scraped(where)):
                return seen
        except UserError:
            pass
        assert time.monotonic() < deadline, "Prometheus saw no requests"
        time.sleep(0.3)


def all_scraped(where):
    from tokenmill.deployment.observe import _number

    return _number(where.url, "sum(count_over_time(http_requests_total[1m])) >= 4") is not None


def test_a_first_chat_asks_all_that_a_user_needs(tracks):
    stable, _ = tracks
    assert ask(stable.url, "chat", "What is 7 + 5?", key=KEY, digest=DIGEST) == "It is 12 ."
    with pytest.raises(Refused, match="the server names chat, not other"):
        ask(stable.url, "other", "Hi", key=KEY)
    with pytest.raises(Refused, match="x-model-digest is d+, wanted e+"):
        ask(stable.url, "chat", "Hi", key=KEY, digest="e" * 64)
    with pytest.raises(Refused, match="GET .*v1/models is answered with|POST .* is answered with 401"):
        ask(stable.url, "chat", "Hi", key="not-the-key")
    stable.broken = True
    with pytest.raises(Refused, match=r"without its \[DONE\]"):
        ask(stable.url, "chat", "Hi", key=KEY)
