"""Phases that people run alone, at pico size: each goes on from what another run made, and nothing is done twice."""

import os
import shutil
import subprocess
import sys
import time

import orjson
import psutil
import pytest

from tokenmill.store import open_store
from tokenmill.tracking import read_events

pytestmark = [pytest.mark.integration, pytest.mark.timeout(290)]
SHORT = ("--set", "pretraining.train_short.tokens=2048", "--set", "pretraining.train_long.tokens=5120")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parts")


def start(folder, *arguments):
    command = [sys.executable, "-m", "tokenmill.cli", *arguments]
    env = os.environ | {"TOKENMILL_STORE": f"file://{folder}/store", "TOKENMILL_LEASE_TTL_S": "4"}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tokenmill(folder, *arguments):
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=280)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def run(folder, pipeline, *arguments):
    done = tokenmill(folder, "run", pipeline, "--preset", "pico", "--json", *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    return orjson.loads(done.stdout)


def finished(folder, result):
    events = read_events(open_store(f"file://{folder}/store"), result["run"])
    return {e.task: e.data for e in events if e.kind == "step_finished"}


@pytest.fixture(scope="module")
def curated(folder):
    return run(folder, "curation")


@pytest.fixture(scope="module")
def pretrained(folder, curated):
    return run(folder, "pretraining", *SHORT, "--input", f"corpus={curated['outputs']['corpus'][:12]}")


def test_each_names_what_the_next_one_takes(folder, curated, pretrained):
    assert set(curated["outputs"]) == {"sources", "corpus"}
    assert set(pretrained["outputs"]) == {"tokenizer", "tokens", "base"}
    assert not {task for task in finished(folder, pretrained) if task.startswith("curation.")}


def test_what_is_made_of_an_imported_corpus_goes_back_to_its_raw_sources(folder, curated, pretrained):
    done = tokenmill(folder, "lineage", pretrained["outputs"]["base"], "--json")
    graph = orjson.loads(done.stdout)
    assert {"sonnets", "three-kingdoms", "pages", "abacus", "problems"} <= {s["name"] for s in graph["sources"]}
    assert curated["outputs"]["corpus"] in {node["digest"] for node in graph["nodes"]}


def test_a_part_finds_done_what_another_run_did_with_the_same_config_and_inputs(folder, curated, pretrained):
    store = f"file://{folder}/store"
    again = run(folder, "pretraining", *SHORT, "--input", f"corpus={store}/manifests/{curated['outputs']['corpus']}")
    assert again["outputs"] == pretrained["outputs"]
    caches = {task: data["cache"] for task, data in finished(folder, again).items() if task != "report.render"}
    assert caches and set(caches.values()) == {"hit"}


def test_sft_alone_goes_on_from_that_base(folder, curated, pretrained):
    made = curated["outputs"] | pretrained["outputs"]
    inputs = [
        part for name in ("sources", "tokens", "tokenizer", "base") for part in ("--input", f"{name}={made[name]}")
    ]
    tuned = run(folder, "sft", *inputs)
    assert set(tuned["outputs"]) == {"sft"}
    weights = open_store(f"file://{folder}/store").get_manifest(tuned["outputs"]["sft"])
    assert weights.parents["base"] == (made["base"],)


def test_a_killed_run_leaves_no_rank_and_a_rerun_ends_as_if_nothing_had_been(folder, tmp_path, curated, pretrained):
    shutil.copytree(folder / "store", tmp_path / "store")
    for action in (tmp_path / "store" / "actions").iterdir():
        action.unlink()
    arguments = (*SHORT, "--input", f"corpus={curated['outputs']['corpus']}")
    process = start(tmp_path, "run", "pretraining", "--preset", "pico", *arguments)

    def ranks():
        lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
        return [line for line in lines if "tokenmill.training.worker" in line and str(tmp_path) in line]

    wait_for(ranks, "a rank", 120)
    process.kill()
    process.communicate()
    wait_for(lambda: not ranks(), "the ranks to die with their run", 10)
    assert run(tmp_path, "pretraining", *arguments)["outputs"] == pretrained["outputs"]


def wait_for(condition, what, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def test_a_wrong_input_is_one_line_and_exit_code_2(folder, curated):
    corpus = curated["outputs"]["corpus"]
    for pipeline, inputs, said in (
        ("pretraining", (), "pretraining lacks corpus (made by curation): give --input corpus=<manifest>"),
        ("pretraining", ("--input", "corpus=beef"), "beef fits 0 manifests in file://"),
        ("pretraining", ("--input", "corpus"), "--input 'corpus': expected name=manifest"),
        (
            "sft",
            [p for n in ("sources", "tokens", "tokenizer", "base") for p in ("-i", f"{n}={corpus}")],
            "must be sources",
        ),
    ):
        done = tokenmill(folder, "run", pipeline, "--preset", "pico", *inputs)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
