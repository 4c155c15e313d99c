"""The two programs that the chart brings into vLLM's container: the header, and the preStop hook."""

import asyncio
import importlib.util
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rendered import CHARTS


def load(name):
    spec = importlib.util.spec_from_file_location(name, CHARTS / "inference/files" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def engine():
    """A /metrics whose numbers a test sets; None breaks the answer."""
    state = {"running": 0.0, "waiting": 0.0, "asked": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state["asked"] += 1
            labels = '{engine="0",model_name="chat"}'
            lines = [f"vllm:num_requests_{name}{labels} {state[name]}" for name in ("running", "waiting")]
            text = "\n".join(
                ["# TYPE vllm:num_requests_running gauge", *lines, f"vllm:kv_cache_usage_perc{labels} 7.0", ""]
            )
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        state["url"] = f"http://127.0.0.1:{server.server_port}/metrics"
        yield state
        server.shutdown()


def drained_in(engine, longest_s, endpoint_s=0.0):
    began = time.monotonic()
    load("drain").drain(engine["url"], endpoint_s, longest_s)
    return time.monotonic() - began


def test_an_idle_engine_may_go_once_the_proxies_have_heard(engine):
    assert 0.3 <= drained_in(engine, 30, endpoint_s=0.3) < 5


@pytest.mark.parametrize("state", ["running", "waiting"])
def test_a_request_is_waited_for_until_it_ends(engine, state):
    engine[state] = 2.0
    threading.Timer(0.7, lambda: engine.update({state: 0.0})).start()
    assert 0.7 <= drained_in(engine, 30) < 10


def test_no_request_is_waited_for_longer_than_the_longest(engine):
    engine["running"] = 1.0
    assert 1.0 <= drained_in(engine, 1.0) < 4


def test_an_engine_that_is_gone_is_not_waited_for(engine):
    engine["url"] = "http://127.0.0.1:9/metrics"
    assert drained_in(engine, 60) < 20


def answer(monkeypatch, messages, kind="http"):
    """What a client gets of an application that sends `messages` through the middleware."""
    sent = []

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    async def send(message):
        sent.append(message)

    middleware = load("model_digest").ModelDigest(app)
    asyncio.run(middleware({"type": kind}, None, send))
    return sent


START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
PIECES = [
    {"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True},
    {"type": "http.response.body", "body": b""},
]


def test_an_answer_gets_the_digest_and_its_stream_is_untouched(monkeypatch):
    monkeypatch.setenv("MODEL_DIGEST", "d" * 64)
    first, *rest = answer(monkeypatch, [START, *PIECES])
    assert first["headers"] == [*START["headers"], (b"x-model-digest", b"d" * 64)]
    assert rest == PIECES and START["headers"] == [(b"content-type", b"text/event-stream")]


def test_an_unpinned_models_digest_is_read_from_the_file(monkeypatch, tmp_path):
    (tmp_path / "digest").write_text("e" * 64)
    monkeypatch.setenv("MODEL_DIGEST_FILE", str(tmp_path / "digest"))
    (first, *_) = answer(monkeypatch, [START])
    assert (b"x-model-digest", b"e" * 64) in first["headers"]


def test_what_is_no_answer_passes_through(monkeypatch):
    monkeypatch.setenv("MODEL_DIGEST", "d" * 64)
    startup = [{"type": "lifespan.startup.complete"}]
    assert answer(monkeypatch, startup, kind="lifespan") == startup
