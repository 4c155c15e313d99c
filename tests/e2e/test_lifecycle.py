"""The whole life of a pico model from the command line; and once more, when every pure step is found done."""

import os
import subprocess
import sys

import orjson
import pytest

from tokenmill.store import open_store
from tokenmill.tracking import read_events

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
SECRET = "planted-secret-7f3a"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("life")


def tokenmill(folder, *arguments):
    env = os.environ | {"TOKENMILL_STORE": f"file://{folder}/store", "AWS_SECRET_ACCESS_KEY": SECRET}
    command = [sys.executable, "-m", "tokenmill.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def first(folder):
    done = tokenmill(folder, "run", "lifecycle", "--preset", "pico", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    return orjson.loads(done.stdout)


def finished(folder, run):
    events = read_events(open_store(f"file://{folder}/store"), run)
    return {e.task: e.data for e in events if e.kind == "step_finished"}


def test_the_run_passes_its_gate_and_names_its_sources(first):
    assert first["verdict"]["passed"]
    names = {source["name"] for source in first["lineage"]["sources"]}
    assert {"sonnets", "three-kingdoms", "pages", "abacus", "problems"} <= names
    assert all(source["licence"] for source in first["lineage"]["sources"])


def test_the_registered_model_leads_back_to_every_source(folder, first):
    done = tokenmill(folder, "lineage", "models:/internlm2-chat-pico@candidate", "--json")
    assert done.returncode == 0, done.stderr
    assert "three-kingdoms" in done.stdout and "Apache-2.0" in done.stdout


def test_a_rerun_finds_every_pure_step_done_with_the_same_digests(folder, first):
    done = tokenmill(folder, "run", "lifecycle", "--preset", "pico", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    before, after = finished(folder, first["run"]), finished(folder, orjson.loads(done.stdout)["run"])
    pure = {task for task, data in after.items() if data["cache"] != "effect"}
    assert {task for task in pure if after[task]["cache"] != "hit"} == set()
    assert all(after[t]["outputs"][r]["digest"] == o["digest"] for t in pure for r, o in before[t]["outputs"].items())


def test_a_planted_secret_is_found_nowhere(folder, first):
    holders = [p for p in folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert holders == []
