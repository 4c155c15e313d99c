"""A training's numbers in a real MLflow while it trains, and what happens to the training when MLflow is killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import toy
from mlflow import MlflowClient
from servers import MLflowServer

from tokenmill.store import ArtifactStore, open_store
from tokenmill.tracking import deliver, read_events

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]
STEP = "pretraining.pretrain.short"
Point = tuple[int, float, int]  # step, value, milliseconds


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MLflowServer]:
    server = MLflowServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_store((tmp_path / "store").as_uri())


def train(store: ArtifactStore, steps: int, **environment: str) -> subprocess.Popen[str]:
    tokens, tokenizer = toy.tokens(store)
    command = [sys.executable, "-m", "tokenmill.cli", "step", STEP, "--preset", "pico", "--json"]
    command += ["--input", f"tokens={tokens.digest}", "--input", f"tokenizer={tokenizer.digest}"]
    command += ["--set", f"{STEP}.tokens={512 * steps}"]
    known = {"TOKENMILL_STORE": store.uri, "TOKENMILL_DELIVER_EVERY_S": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | known | environment)


def run_of(store: ArtifactStore) -> str:
    """The run that trains; the steps before it were runs of their own."""
    keys = sorted({entry.key.split("/")[1] for entry in store.backend.list("runs/") if f"/{STEP}/" in entry.key})
    return keys[-1] if keys else ""


def stored(store: ArtifactStore) -> list[Point]:
    """Every loss among the run's events: what MLflow must have in the end."""
    events = [e for e in read_events(store, run_of(store)) if e.kind == "metrics" and "loss" in e.data["values"]]
    return [(e.data["step"], float(e.data["values"]["loss"]), int(e.time * 1000)) for e in events]


def shown(uri: str, store: ArtifactStore) -> list[Point]:
    """Every loss of the run in MLflow, read with MLflow's own client."""
    client = MlflowClient(tracking_uri=uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`tokenmill.nested` LIKE '{run_of(store)}/%'")
    assert len(runs) <= 1
    return [(m.step, m.value, m.timestamp) for r in runs for m in client.get_metric_history(r.info.run_id, "loss")]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], what: str, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"training ended while waiting for {what}"
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)


def stop_ranks(process: subprocess.Popen[str]) -> None:
    for child in psutil.Process(process.pid).children(recursive=True):
        line = " ".join(child.cmdline())
        if "tokenmill.training.worker" in line and "torch.distributed.run" not in line:
            child.send_signal(signal.SIGTERM)


def test_losses_are_seen_while_it_trains_and_a_killed_mlflow_loses_none(
    server: MLflowServer, store: ArtifactStore
) -> None:
    uri = server.start()
    process = train(store, steps=20_000, MLFLOW_TRACKING_URI=uri)  # longer than anybody waits: it is stopped below
    try:
        wait_for(lambda: len(shown(uri, store)) > 2, process, "a loss in MLflow")
        server.stop()
        before = len(stored(store))
        wait_for(lambda: len(stored(store)) > before + 2, process, "training to go on without MLflow")
        server.start()
        wait_for(lambda: len(shown(uri, store)) > before + 2, process, "MLflow to catch up")
        stop_ranks(process)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 75 and "stopped by SIGTERM" in errors
    assert errors.count("tracking waits, the work goes on") == 1  # one line for the whole outage
    deliver(store, run_of(store), uri)  # the exit task
    deliver(store, run_of(store), uri, again=True)
    expected = stored(store)
    assert Counter(shown(uri, store)) == Counter(expected) and len(set(expected)) == len(expected)


def test_an_mlflow_that_hangs_neither_fails_nor_holds_up_the_training(store: ArtifactStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections and never answers
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        process = train(store, steps=32, MLFLOW_TRACKING_URI=uri, TOKENMILL_DELIVER_EVERY_S="0.1")
        try:
            _, errors = process.communicate(timeout=120)
            ended = time.time()
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, errors
    last = max(e.time for e in read_events(store, run_of(store)) if e.kind == "step_finished")
    assert ended - last < 10  # the health question is given up after five seconds


def test_a_training_shorter_than_the_first_delivery_does_not_import_mlflow(
    store: ArtifactStore, run_python: Callable[..., str]
) -> None:
    tokens, tokenizer = toy.tokens(store)
    code = (
        "import sys, toy; from tokenmill.store import open_store\n"
        f"store = open_store({store.uri!r})\n"
        f"toy.run({STEP!r}, store, tokens=store.get_manifest({tokens.digest!r}),"
        f" tokenizer=store.get_manifest({tokenizer.digest!r}))\n"
        "print('mlflow' in sys.modules)"
    )
    tests = str(Path(toy.__file__).parent)
    told = run_python(code, MLFLOW_TRACKING_URI="http://127.0.0.1:9", TOKENMILL_DELIVER_EVERY_S="600", PYTHONPATH=tests)
    assert told.splitlines()[-1] == "False"
