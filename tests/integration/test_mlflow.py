"""Delivery to a real MLflow: a server on a loopback port and, where no server is the point, a sqlite database."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import MLflowServer, free_ports

from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.store import ArtifactStore, layout, open_store
from tokenmill.tracking import (
    DeliveryThread,
    EventLog,
    Registry,
    RunRef,
    TrackingError,
    deliver,
    read_events,
    registry_ready,
)
from tokenmill.tracking.connection import connect, target_name, tracking_uri
from tokenmill.tracking.delivery import Delivery

pytestmark = pytest.mark.integration
ROOTS = ":".join(str(Path(p).resolve()) for p in ("platform", "components", "pipelines"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.stop()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_store((tmp_path / "store").as_uri())


def issue(store: ArtifactStore, kind: str, step: str, seed: str = "", **parents: Manifest) -> Manifest:
    shards = []
    for name, data in {"config.json": b'{"hidden_size": 64}', "data.bin": f"{kind} {step} {seed}".encode()}.items():
        blob, size = store.put_blob(data)
        shards.append(Shard(name=name, blob=blob, content=blob, size=size))
    facts = {"sources": {"poems": {"licence": "MIT", "origin": "npm chinese-poetry"}}} if kind == "sources" else {}
    draft = Draft(kind=kind, shards=tuple(shards), counts={"records": 10}, dropped={"short": 2}, facts=facts)
    roles = {role: (parent.digest,) for role, parent in parents.items()}
    manifest = Manifest.issue(draft, parents=roles, step=step, version=1, config={"seed": seed})
    store.put_manifest(manifest)
    return manifest


def train(log: EventLog, store: ArtifactStore, corpus: Manifest, steps: int = 6, lr: float = 0.1) -> Manifest:
    """One training step's events, two of its metrics numbers that JSON does not know."""
    log.step_started("pretraining.train", 1, {"lr": lr}, {"corpus": [corpus.digest]}, observed={"commit": "c0ffee"})
    log.params({"parameters": 123_456})
    for step in range(steps):
        log.metrics({"loss": 3.0 - step / 10, "grad_norm": float("nan")}, step=step * 4096)
    weights = issue(store, "weights", "pretraining.train", seed=str(lr), corpus=corpus)
    log.step_finished("pretraining.train", {"weights": weights}, "miss", 2.5)
    return weights


def whole_run(store: ArtifactStore, run: RunRef, steps: int = 6) -> Manifest:
    """Events of a run: opened, two steps, a report, closed."""
    with EventLog(store, run, "open-run") as log:
        log.run_opened(config={"curation": {"filter": {"rules": "en_web"}}})
    sources = issue(store, "sources", "curation.register_sources")
    with EventLog(store, run, "filter") as log:
        log.step_started("curation.filter", 1, {"rules": "en_web"}, {"sources": [sources.digest]})
        corpus = issue(store, "corpus", "curation.filter", sources=sources)
        log.step_finished("curation.filter", {"output": corpus}, "miss", 0.5)
        report, _ = store.put_blob(b"<html>funnel</html>")
        log.artifact("reports/report.html", report, on="run")
    with EventLog(store, run, "train") as log:
        weights = train(log, store, corpus, steps)
    with EventLog(store, run, "close-run") as log:
        log.run_closed("succeeded")
    return weights


def snapshot(uri: str, run: RunRef, **known: Any) -> dict[str, Any]:
    """Everything that MLflow has of one run, read with MLflow's own client, without ids and times of its making."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    parents = client.search_runs(experiments, f"tags.`tokenmill.run_key` = '{run.key}'")
    assert len(parents) == 1, f"{len(parents)} parent runs"
    parent = parents[0]
    seen: dict[str, Any] = {"parent": (parent.info.status, parent.data.params)}
    nested = client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    seen["nested"] = sorted((r.info.run_name, r.info.status, r.data.tags.get("tokenmill.cache", "")) for r in nested)
    everything = {r.info.run_id for r in client.search_runs(experiments)}
    foreign = {r.info.run_id for r in client.search_runs(experiments) if "tokenmill.level" not in r.data.tags}
    assert not foreign, f"{len(foreign)} of {len(everything)} runs belong to nothing"
    for r in nested:
        name = r.info.run_name
        histories = {k: client.get_metric_history(r.info.run_id, k) for k in r.data.metrics}
        seen[f"{name} metrics"] = {k: [(m.step, str(m.value), m.timestamp) for m in h] for k, h in histories.items()}
        seen[f"{name} params"] = r.data.params
        inputs = [(i.dataset.name, i.dataset.digest, i.tags[0].value) for i in r.inputs.dataset_inputs]
        seen[f"{name} inputs"] = inputs
    models = [m for m in client.search_logged_models(experiments) if m.tags.get("tokenmill.run_key") == run.key]
    seen["models"] = sorted((m.name, str(m.status), m.tags["tokenmill.manifest"]) for m in models)
    seen["artifacts"] = [a.path for a in client.list_artifacts(parent.info.run_id, "reports")]
    return seen


def test_mlflow_away_during_a_run_delivered_later_exactly_once(
    server: MLflowServer, store: ArtifactStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    attempts = threading.Semaphore(0)

    def counted(uri: str) -> Any:
        attempts.release()
        return connect(uri)

    monkeypatch.setattr("tokenmill.tracking.delivery.connect", counted)
    run = RunRef.new("lifecycle", "pico", {"kfp.run_id": "0f5e"})
    with (
        EventLog(store, run, "early") as log,
        DeliveryThread(store, run, "early", tracking_uri=server.uri, every_s=0.1),
    ):
        corpus = issue(store, "corpus", "curation.ingest")
        train(log, store, corpus)
        log.flush()
        for _ in range(3):
            assert attempts.acquire(timeout=20)
    assert capsys.readouterr().err.count("does not answer") == 1  # one line for the whole outage
    weights = whole_run(store, run)
    begun = time.monotonic()
    with pytest.raises(TrackingError, match=f"127.0.0.1:{server.port} does not answer") as away:
        deliver(store, run.key, server.uri)
    assert time.monotonic() - begun < 5 and "\n" not in str(away.value)

    server.start()
    done = deliver(store, run.key, server.uri)
    assert done.refused == 0 and done.events > 20
    first = snapshot(server.uri, run)
    assert first["parent"] == ("FINISHED", {"curation.filter.rules": "en_web"})
    assert Counter(name.rsplit("-", 2)[0] for name, *_ in first["nested"]) == {
        "curation.filter": 1,
        "pretraining.train": 2,
    }
    name = next(n for n, *_ in first["nested"] if n.startswith("pretraining.train"))
    losses = [(step, value) for step, value, _ in first[f"{name} metrics"]["loss"]]
    assert losses == [(step * 4096, str(3.0 - step / 10)) for step in range(6)]
    assert [value for _, value, _ in first[f"{name} metrics"]["grad_norm"]] == ["nan"] * 6
    assert first[f"{name} params"] == {"lr": "0.1", "parameters": "123456"}
    assert first[f"{name} inputs"][0][2] == "training"
    assert weights.digest in {digest for *_, digest in first["models"]}
    assert first["artifacts"] == ["reports/report.html"]

    assert deliver(store, run.key, server.uri).events == 0
    deliver(store, run.key, server.uri, again=True)
    deliver(store, run.key, server.uri.replace("127.0.0.1", "localhost"))  # the same MLflow by another name
    assert snapshot(server.uri, run) == first


def test_what_was_collected_since_is_left_out_and_the_rest_of_the_run_is_told(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunRef.new("smoke", "pico")
    weights = whole_run(store, run)
    events = list(read_events(store, run.key))
    (report,) = [e.data["blob"] for e in events if e.kind == "artifact"]
    (corpus,) = weights.parents["corpus"]
    for gone in (layout.blob_key(report), layout.manifest_key(weights.digest), layout.manifest_key(corpus)):
        store.backend.delete(gone)
    done = deliver(store, run.key)
    assert done.refused == 2  # the report and the model; the dataset's event is told without it
    said = capsys.readouterr().err
    assert said.count("not delivered") == 3 and all(digest in said for digest in (report, weights.digest, corpus))
    seen = snapshot(tracking_uri(store), run)
    assert seen["parent"][0] == "FINISHED"
    (_, filtered, _), (train, trained, _) = seen["nested"]
    assert filtered == trained == "FINISHED"
    assert seen[f"{train} inputs"] == [] and len(seen[f"{train} metrics"]["loss"]) == 6
    assert deliver(store, run.key).events == 0


def test_two_deliverers_at_once_leave_no_duplicates(server: MLflowServer, store: ArtifactStore) -> None:
    server.start()
    run = RunRef.new("race", "pico")
    whole_run(store, run, steps=300)
    code = (
        "import sys; from tokenmill.store import open_store; from tokenmill.tracking.delivery import Delivery\n"
        f"delivery = Delivery(open_store({store.uri!r}), {run.key!r}, {server.uri!r})\n"
        "import mlflow; print('ready', flush=True); sys.stdin.readline(); print(delivery.deliver().refused)"
    )
    environment = os.environ | {"PYTHONPATH": ROOTS, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n", racer.stderr.read()
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        output, errors = racer.communicate(timeout=60)
        assert (racer.returncode, output) == (0, "0\n"), errors
    seen = snapshot(server.uri, run)
    name = next(n for n, *_ in seen["nested"] if n.startswith("pretraining.train"))
    assert len(seen["nested"]) == 2 and len(seen["models"]) == 1
    assert [step for step, *_ in seen[f"{name} metrics"]["loss"]] == [step * 4096 for step in range(300)]


def test_delivery_interrupted_anywhere_ends_as_if_it_had_not_been(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunRef.new("undisturbed", "pico")
    whole_run(store, run)
    deliver(store, run.key)
    uri = Delivery(store, run.key).uri
    expected = snapshot(uri, run)

    def without_names(seen: dict[str, Any], key: str) -> str:
        return str(seen).replace(key[-8:], "RUN").replace(key, "RUN")

    calls = 0

    class Dies:
        """A client whose nth write kills the delivery, before or after it took effect."""

        def __init__(self, client: Any, at: int, after: bool):
            self._client, self._left, self._after = client, at, after

        def __getattr__(self, name: str) -> Any:
            method = getattr(self._client, name)
            if name.startswith(("get_", "search_")):
                return method

            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                self._left -= 1
                if self._left == 0 and not self._after:
                    raise KeyboardInterrupt
                result = method(*args, **kwargs)
                if self._left == 0:
                    raise KeyboardInterrupt
                return result

            return call

    counting = Delivery(store, run.key)
    counting.client = Dies(counting.client, -1, False)
    counting.deliver(again=True)
    total = calls
    assert total > 10
    for at in range(1, total + 1):  # at every write, dying before and after it in turn
        clone = RunRef(key=f"{run.key[:-8]}{at:08x}", name=run.name, preset="interrupted", tags={"project": f"at{at}"})
        for entry in list(store.backend.list(f"runs/{run.key}/events/")):  # the same events, another run
            store.backend.put(entry.key.replace(run.key, clone.key), store.backend.get(entry.key))
        store.backend.put(f"runs/{clone.key}/run.json", clone.model_dump_json().encode())
        dying = Delivery(store, clone.key)
        dying.client = Dies(dying.client, at, after=at % 2 == 1)
        with pytest.raises(KeyboardInterrupt):
            dying.deliver()
        deliver(store, clone.key)
        _forget_orphans(uri)
        assert without_names(snapshot(uri, clone), clone.key) == without_names(expected, run.key), f"died at call {at}"


def _forget_orphans(uri: str) -> None:
    """A death between making a run and recording it leaves an unnamed one; nothing else may be left behind."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    orphans = [r for r in runs if "tokenmill.level" not in r.data.tags]
    assert len(orphans) <= 1
    for orphan in orphans:
        assert not orphan.data.metrics and not orphan.data.params
        client.delete_run(orphan.info.run_id)


def test_lost_database_is_filled_again(
    store: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunRef.new("lost", "pico")
    whole_run(store, run)
    old, new = f"sqlite:///{tmp_path}/old.db", f"sqlite:///{tmp_path}/new.db"
    deliver(store, run.key, old)
    for entry in list(store.backend.list(f"runs/{run.key}/delivered/")):  # what was delivered to `old`: `new` lacks it
        store.backend.put(entry.key.replace(target_name(old), target_name(new)), store.backend.get(entry.key))
    deliver(store, run.key, new)
    assert "MLflow has lost this run" in capsys.readouterr().err
    assert snapshot(new, run) == snapshot(old, run)


def test_rerun_under_one_key_keeps_the_work_and_shows_the_edit(store: ArtifactStore) -> None:
    run = RunRef.new("edited", "pico")
    corpus = issue(store, "corpus", "curation.filter")
    with EventLog(store, run, "train") as log:
        log.step_started("pretraining.train", 1, {"lr": 0.1}, {"corpus": [corpus.digest]})
        log.step_failed("pretraining.train", "out of memory")
    with EventLog(store, run, "train") as log:  # a retry that works
        weights = train(log, store, corpus)
    with EventLog(store, run, "train") as log:  # the same again: a cache hit
        log.step_started("pretraining.train", 1, {"lr": 0.1}, {"corpus": [corpus.digest]}, options={"workers": 8})
        log.step_finished("pretraining.train", {"weights": weights}, "hit", 0.01)
    with EventLog(store, run, "train") as log:  # edited
        train(log, store, corpus, lr=0.2)
    with EventLog(store, run, "killed") as log:
        log.step_started("sft.train", 1, {}, {})
    with EventLog(store, run, "close") as log:
        log.run_closed("failed", "sft.train was killed")
    done = deliver(store, run.key)
    assert done.refused == 0
    seen = snapshot(Delivery(store, run.key).uri, run)
    assert [(name.rsplit("-", 2)[0], status, cache) for name, status, cache in seen["nested"]] == [
        ("pretraining.train", "FINISHED", "miss"),
        ("pretraining.train", "FINISHED", "miss"),
        ("sft.train", "KILLED", ""),
    ]
    assert seen["parent"][0] == "FAILED" and len(seen["models"]) == 2
    for name, *_ in seen["nested"][:2]:
        assert [value for _, value, _ in seen[f"{name} metrics"]["seconds"]] == ["2.5"]  # not the hit's 0.01


def test_ranks_in_other_processes_write_to_the_step_that_started_them(store: ArtifactStore) -> None:
    run = RunRef.new("ranks", "pico")
    launcher = EventLog(store, run, "train")
    launcher.step_started("pretraining.train", 1, {}, {})
    launcher.flush()
    with EventLog(store, run, "train") as rank:
        rank.metrics({"loss": 1.0}, step=7)
    launcher.close()
    deliver(store, run.key)
    seen = snapshot(Delivery(store, run.key).uri, run)
    name = seen["nested"][0][0]
    assert [(step, value) for step, value, _ in seen[f"{name} metrics"]["loss"]] == [(7, "1.0")]


def test_registry_versions_are_digests_and_aliases_move(server: MLflowServer, store: ArtifactStore) -> None:
    uri = server.start()
    run = RunRef.new("registry", "pico")
    EventLog(store, run, "open").run_opened()
    registry = Registry(store, uri)
    registry_ready(store, uri)
    weights = [issue(store, "weights", "rlhf.ppo", seed=str(n)) for n in range(2)]
    versions: list[str] = []
    racers = [
        threading.Thread(
            target=lambda: versions.append(Registry(store, uri).register_model("chat", weights[0], run=run))
        )
        for _ in range(4)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(versions) == 4 and len(set(versions)) == 1
    second = registry.register_model("chat", weights[1], run=run, tags={"gate.status": "passed"})
    assert second not in versions
    assert registry.alias_version("chat", "champion") is None
    registry.set_alias("chat", "champion", versions[0])
    assert registry.resolve_model("models:/chat@champion") == weights[0].digest
    registry.set_alias("chat", "champion", second)
    assert registry.resolve_model("models:/chat@champion") == weights[1].digest
    assert registry.resolve_model(f"models:/chat/{versions[0]}") == weights[0].digest
    later = RunRef.new("another", "pico")
    EventLog(store, later, "open").run_opened()
    assert registry.register_model("chat", weights[1], run=later) == second
    assert {w.digest for w in weights} <= set(store.pins().values())  # gc keeps what is registered
    with pytest.raises(InputError, match="has no alias 'canary'"):
        registry.resolve_model("models:/chat@canary")
    with pytest.raises(InputError, match="has no model 'nobody'; it has chat"):
        registry.resolve_model("models:/nobody/1")

    # what a version's model holds, here without a tokenizer in its lineage
    import mlflow.artifacts

    place = registry.client.get_model_version_download_uri("chat", second)
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=place, tracking_uri=uri))
    assert {p.name for p in folder.iterdir()} == {"MLmodel", "manifest.json", "config.json", "card.md"}
    assert Manifest.from_json((folder / "manifest.json").read_bytes()).digest == weights[1].digest


def test_registry_away_is_one_clear_line(store: ArtifactStore) -> None:
    (port,) = free_ports(1)
    with pytest.raises(TrackingError, match="does not answer") as away:
        registry_ready(store, f"http://127.0.0.1:{port}")
    assert "\n" not in str(away.value)
