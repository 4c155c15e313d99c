"""Events: nothing blocks the work, nothing is lost or doubled, and MLflow is not imported."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tokenmill.errors import ConfigError, InputError, Interrupted, StoreError
from tokenmill.manifest import Draft, Manifest
from tokenmill.store import ArtifactStore, open_store
from tokenmill.store.local import LocalBackend
from tokenmill.tracking import EventLog, RunRef, TrackingError, deliver, read_events, read_run
from tokenmill.tracking.connection import connect, once, target_name, tracking_uri, without_userinfo
from tokenmill.tracking.event_files import EventFollower, list_event_files


class Flaky(LocalBackend):
    """A store that refuses its first `failures` writes."""

    def __init__(self, root: Path, failures: int):
        super().__init__(root)
        self.failures = failures

    def put(self, key: str, data: bytes | Path) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise StoreError("the store is away")
        super().put(key, data)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(tmp_path.as_uri())


@pytest.fixture
def run() -> RunRef:
    return RunRef(key="20260101T000000-abcdef01", name="lifecycle", preset="pico", tags={"kfp.run_id": "7f"})


def artifact(kind: str = "weights", **fields: object) -> Manifest:
    return Manifest.issue(Draft(kind=kind, shards=(), **fields), parents={}, step="sft.train", version=1, config={})


def test_writing_events_never_imports_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys; from tokenmill.store import open_store; from tokenmill.tracking import *\n"
        f"log = EventLog(open_store({tmp_path.as_uri()!r}), RunRef.new('r'), 'task')\n"
        "log.metric('loss', 1.0); log.close()\n"
        "sys.exit('mlflow' in sys.modules)"
    )
    paths = ":".join(str(Path(p).resolve()) for p in ("platform", "components", "pipelines"))
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": paths, "HOME": str(tmp_path)}, check=False)
    assert done.returncode == 0


def test_events_are_read_back_as_they_happened(store: ArtifactStore, run: RunRef) -> None:
    made = artifact(counts={"tokens_seen": 5})
    with EventLog(store, run, "train") as log:
        log.step_started("sft.train", 2, {"lr": 0.1}, {"base": ["ab" * 32], "corpus": []}, tags={"round": "1"})
        log.metrics({"loss": 2.5, "grad_norm": float("nan")}, step=4096)
        log.step_finished("sft.train", {"weights": made}, "miss", 1.5)
    started, metrics, finished = read_events(store, run.key)
    assert [started.kind, metrics.kind, finished.kind] == ["step_started", "metrics", "step_finished"]
    assert started.data["inputs"] == {"base": ["ab" * 32]}  # a role without artifacts is no input
    assert (metrics.data["step"], metrics.data["values"]) == (4096, {"loss": 2.5, "grad_norm": "nan"})
    assert finished.data["outputs"]["weights"]["digest"] == made.digest
    assert started.time <= metrics.time <= finished.time
    assert read_run(store, run.key) == run


def test_metrics_are_batched_into_few_files(store: ArtifactStore, run: RunRef) -> None:
    with EventLog(store, run, "train") as log:
        for step in range(5_000):
            log.metric("loss", 1.0, step)
    assert [e.data["step"] for e in read_events(store, run.key)] == list(range(5_000))
    assert len(list_event_files(store, run.key)["train"]) <= 3


def test_a_follower_tells_every_event_once(store: ArtifactStore, run: RunRef, monkeypatch: pytest.MonkeyPatch) -> None:
    follower, asked = EventFollower(store, run.key), list[str]()
    get = store.backend.get
    monkeypatch.setattr(store.backend, "get", lambda key: asked.append(key) or get(key))
    told = [follower.news()]
    for task in ("first", "second"):
        with EventLog(store, run, task) as log:
            log.metrics({"loss": 1.0}, step=1)
        told.append(follower.news())
    assert [[event.task for event in events] for events in (*told, follower.news())] == [[], ["first"], ["second"], []]
    events = [key for key in asked if "/events/" in key]
    assert len(events) == len(set(events)) == 2


def test_store_away_holds_nothing_up_and_loses_nothing(
    tmp_path: Path, run: RunRef, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ArtifactStore(Flaky(tmp_path, failures=2))
    log = EventLog(store, run, "train")
    log.run_opened()
    begun = time.monotonic()
    for step in range(100):
        log.metric("loss", 1.0, step)
    assert time.monotonic() - begun < 0.5
    assert log.flush(timeout_s=10)
    log.close()
    kinds = [e.data.get("step") for e in read_events(store, run.key)]
    assert kinds == [None, *range(100)]
    assert capsys.readouterr().err.count("the store is away") == 1  # one line an outage


def test_store_gone_for_good_ends_with_one_line_that_counts_the_loss(
    tmp_path: Path, run: RunRef, capsys: pytest.CaptureFixture[str]
) -> None:
    log = EventLog(ArtifactStore(Flaky(tmp_path, failures=1_000_000)), run, "train")
    log.metric("loss", 1.0)
    log.metric("loss", 2.0)
    begun = time.monotonic()
    log.close(timeout_s=0.2)
    assert time.monotonic() - begun < 3
    assert '"events":2' in capsys.readouterr().err


def test_two_attempts_of_a_task_keep_their_events_apart(store: ArtifactStore, run: RunRef) -> None:
    for attempt in (1, 2):
        with EventLog(store, run, "train") as log:
            log.metric("attempt", attempt)
    assert [e.data["values"]["attempt"] for e in read_events(store, run.key, "train")] == [1, 2]
    assert len({f.attempt for f in list_event_files(store, run.key)["train"]}) == 2


def test_a_failure_is_told_as_a_person_is_told_it(store: ArtifactStore, run: RunRef) -> None:
    with EventLog(store, run, "train") as log:
        log.step_failed("sft.train", ConfigError("unknown option 'x'"))
        log.step_failed("sft.train", Interrupted("stopped after step 4"))
        log.step_failed("sft.train", ZeroDivisionError("division by zero"))
    told = [(e.data["message"], e.data["exit_code"]) for e in read_events(store, run.key)]
    assert told == [
        ("unknown option 'x'", 2),
        ("stopped after step 4", 75),
        ("ZeroDivisionError: division by zero", 1),
    ]


@pytest.mark.parametrize("key", ["../other", "a/b", "", ".hidden", "x" * 200])
def test_a_run_key_cannot_leave_its_folder(key: str, store: ArtifactStore) -> None:
    with pytest.raises(ValueError):
        RunRef(key=key, name="r")
    with pytest.raises(InputError):
        read_run(store, key)


def test_a_run_reference_survives_json() -> None:
    run = RunRef.new("lifecycle", "nano", {"k8s.namespace": "ml"})
    assert RunRef.model_validate_json(run.model_dump_json()) == run


def test_unknown_run_is_one_line_that_names_the_known(store: ArtifactStore, run: RunRef) -> None:
    EventLog(store, run, "t").close()
    with EventLog(store, run, "t") as log:
        log.run_opened()
    with pytest.raises(InputError, match=run.key):
        deliver(store, "20260101T000000-ffffffff")


def test_tracking_uri_defaults_to_a_database_beside_a_local_store(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(store) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri(store) == "http://mlflow:5000"
    assert tracking_uri(store, "http://other:5000") == "http://other:5000"


def test_tracking_uri_for_a_bucket_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bucket(ArtifactStore):
        uri = "s3://bucket/prefix"  # type: ignore[assignment]

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_URI is not set"):
        tracking_uri(Bucket.__new__(Bucket))


def test_mlflow_away_is_one_clear_line_without_the_password() -> None:
    with socket.socket() as taken:  # a port that nobody listens on
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(TrackingError) as away:
            connect(f"http://user:sesame@127.0.0.1:{port}")
    assert "\n" not in str(away.value) and "sesame" not in str(away.value)
    assert f"127.0.0.1:{port}" in str(away.value)


def test_another_password_is_the_same_mlflow() -> None:
    assert target_name("http://a:old@mlflow:5000/") == target_name("http://a:new@mlflow:5000")
    assert target_name("http://mlflow:5000") != target_name("http://mlflow:5001")
    assert without_userinfo("http://a:b@mlflow:5000/x") == "http://mlflow:5000/x"


def test_once_sixteen_racers_make_one_thing(store: ArtifactStore) -> None:
    made: list[str] = []
    discarded: list[str] = []
    start = threading.Barrier(16)
    results: list[str] = []

    def race(number: int) -> None:
        def create() -> str:
            start.wait()  # nobody finds another's result before creating
            made.append(f"thing-{number}")
            return f"thing-{number}"

        results.append(once(store, "runs/r/thing", find=lambda: None, create=create, discard=discarded.append))

    threads = [threading.Thread(target=race, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1 and len(results) == 16
    assert sorted([*discarded, results[0]]) == sorted(made)


def test_once_makes_anew_what_is_no_longer_alive(store: ArtifactStore) -> None:
    ids = iter(["first", "second"])

    def get(alive: bool) -> str:
        return once(
            store,
            "runs/r/x",
            find=lambda: None,
            create=lambda: next(ids),
            discard=lambda _: None,
            alive=lambda _: alive,
        )

    assert [get(True), get(True), get(False), get(True)] == ["first", "first", "second", "second"]
