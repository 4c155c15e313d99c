"""What a channel is told when a run ends: a real receiver over HTTP, and runs whose events say what happened."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pico import Lab
from servers import free_ports

from tokenmill.pipelines import opening
from tokenmill.pipelines.notify import NOTIFY, blotted, notify
from tokenmill.tracking import EventLog

pytestmark = pytest.mark.integration
PATH = "/services/T0/B0/the-webhooks-own-secret"


class Receiver:
    """A webhook: keeps what it was sent, and first answers with the `faults` it was given."""

    def __init__(self):
        self.told, self.faults, self.asked = [], [], 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                outer.asked += 1
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status = outer.faults.pop(0) if outer.faults else 200
                if status == 200:
                    assert self.path == PATH and list(body) == ["text"]
                    outer.told.append(body["text"])
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}{PATH}"


@pytest.fixture
def receiver(monkeypatch):
    made = Receiver()
    monkeypatch.setenv(NOTIFY, made.url)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def finished(lab, step, kind, name, value, **more):
    manifest = lab.issue_json(kind, {name: value})
    with EventLog(lab.store, lab.run, step) as events:
        events.step_finished(step, {"output": manifest, **more}, "effect", 1.0)


def page(lab):
    """What the gate makes beside its verdict."""
    (lab.folder / "page").mkdir()
    (lab.folder / "page/verdict.html").write_text("<html></html>")
    return lab.issue_folder("report", lab.folder / "page")


def closed(lab, status="succeeded", message=""):
    with EventLog(lab.store, lab.run, "close") as events:
        events.run_closed(status, message)


def verdict(passed):
    checks = [{"name": "format/chat", "passed": True}, {"name": "perplexity/en", "passed": passed}]
    return {"passed": passed, "label": "chat", "checks": checks}


def test_gate_and_promotion_are_told(lab, receiver):
    finished(lab, "evaluation.gate", "verdict", "verdict.json", verdict(True), page=page(lab))
    served = {"served": True, "ok": True, "name": "internlm2-chat-pico", "version": "2", "reason": ""}
    finished(lab, "deployment.deploy", "deployment", "deployment.json", served)
    moved = {"name": "internlm2-chat-pico", "alias": "production", "action": "promoted", "before": "1", "version": "2"}
    finished(lab, "deployment.promote", "promotion", "promotion.json", moved)
    closed(lab)
    assert notify(lab.store, lab.run.key)
    assert receiver.told[0].splitlines() == [
        "✅ *test pico* succeeded",
        "gate: chat passed 2 checks",
        "served: internlm2-chat-pico/2, smoke test passed",
        "internlm2-chat-pico@production promoted: 1 → 2",
        f"run {lab.run.key}",
    ]


def test_a_refusal_of_the_gate_is_told_with_what_failed(lab, receiver):
    finished(lab, "evaluation.gate", "verdict", "verdict.json", verdict(False))
    closed(lab)
    assert notify(lab.store, lab.run.key)
    assert "gate: chat refused, 1 of 2 checks: perplexity/en" in receiver.told[0]


def test_a_failure_is_told_without_keys(lab, receiver, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-key")
    monkeypatch.setenv("HF_TOKEN", "planted-token")
    monkeypatch.setenv("TOKENMILL_SIGNING_KEY", "planted-signing-key")
    assert blotted("planted-token, planted-signing-key") == "•••, •••"
    with EventLog(lab.store, lab.run, "curation.filter") as events:
        events.step_failed(
            "curation.filter", ValueError(f"planted-secret-key at http://me:pass@mlflow/ and {receiver.url}")
        )
    closed(lab, "failed", "the task curation.filter failed")
    assert notify(lab.store, lab.run.key)
    told = receiver.told[0]
    assert told.startswith("❌ *test pico* failed\ncuration.filter: ValueError: ••• at http://•••@mlflow/ and •••")
    assert "planted-secret-key" not in told and "me:pass" not in told and "the-webhooks-own-secret" not in told


def test_what_is_no_secret_is_told_though_our_own_variables_hold_it(lab, receiver, monkeypatch):
    for name, value in (("RUN_KEY", lab.run.key), ("STORE", "s3://llm/team-b"), ("TEAM", "team-b")):
        monkeypatch.setenv(f"TOKENMILL_{name}", value)
    closed(lab, "failed", "team-b-internlm2-chat is not in s3://llm/team-b")
    assert notify(lab.store, lab.run.key)
    assert receiver.told[0].splitlines()[1:] == [
        "team-b-internlm2-chat is not in s3://llm/team-b",
        f"run {lab.run.key}",
    ]


def test_a_receiver_that_is_away_is_asked_again_and_then_left(lab, receiver):
    closed(lab)
    waited = []
    receiver.faults = [503, 429]
    assert notify(lab.store, lab.run.key, sleep=waited.append) and len(receiver.told) == 1 and len(waited) == 2
    receiver.faults, receiver.asked = [500] * 9, 0
    assert not notify(lab.store, lab.run.key, sleep=waited.append) and receiver.asked == 4
    receiver.faults, receiver.asked = [404], 0
    assert not notify(lab.store, lab.run.key, sleep=waited.append) and receiver.asked == 1  # a dead webhook stays dead


def test_nobody_there_fails_no_run_and_is_logged_without_the_address(lab, monkeypatch, capfd):
    (port,) = free_ports(1)
    monkeypatch.setenv(NOTIFY, f"http://127.0.0.1:{port}{PATH}")
    monkeypatch.setattr("tokenmill.pipelines.notify.PAUSES_S", (0.0,))
    monkeypatch.setenv("TOKENMILL_STORE", lab.store.uri)
    with EventLog(lab.store, lab.run, "open") as events:
        events.run_opened(config={})
    monkeypatch.setattr(opening, "deliver", lambda *_: None)
    opening.close_run(lab.run.key, "SUCCEEDED", "")
    said = "".join(capfd.readouterr())
    assert "127.0.0.1 did not take it (ConnectionError)" in said and "the-webhooks-own-secret" not in said


def test_the_exit_task_notifies(lab, receiver, monkeypatch):
    monkeypatch.setenv("TOKENMILL_STORE", lab.store.uri)
    monkeypatch.setattr(opening, "deliver", lambda *_: None)
    with EventLog(lab.store, lab.run, "open") as events:
        events.run_opened(config={})
    opening.close_run(lab.run.key, "FAILED", "it fell over")
    assert receiver.told[0].splitlines()[:2] == ["❌ *test pico* failed", "it fell over"]
