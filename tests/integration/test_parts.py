"""Phases that people run alone, at pico size: each goes on from what another run made, and nothing is done twice."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import orjson
import psutil
import pytest

from tokenmill.records import read_jsonl
from tokenmill.store import open_store
from tokenmill.tracking import read_events

pytestmark = [pytest.mark.integration, pytest.mark.timeout(290)]
HOW = ("--set", "curation.filter.execution.workers=3", "--set", "curation.ingest.max_rejected=0.5")
SHORT = ("--set", "pretraining.pretrain.short.tokens=2048", "--set", "pretraining.pretrain.long.tokens=5120")


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
    return run(folder, "curation", *HOW)


@pytest.fixture(scope="module")
def pretrained(folder, curated):
    return run(folder, "pretraining", *SHORT, "--input", f"corpus={curated['outputs']['corpus'][:12]}")


def test_how_a_run_is_computed_is_set_on_the_command_line_and_is_no_part_of_what_it_makes(folder, curated):
    events = read_events(open_store(f"file://{folder}/store"), curated["run"])
    started = {event.task: event.data for event in events if event.kind == "step_started"}
    assert started["curation.filter"]["options"]["execution"]["workers"] == 3
    assert started["curation.filter"]["config"] == {}
    assert started["curation.ingest"]["config"] == {"max_rejected": 0.5}


def test_each_names_what_the_next_one_takes(folder, curated, pretrained):
    assert set(curated["outputs"]) == {"sources", "corpus"}
    assert set(pretrained["outputs"]) == {"tokenizer", "tokens", "base"}
    assert {task for task in finished(folder, pretrained) if task.startswith("curation.")} == {"curation.select_long"}


def test_a_run_leaves_its_funnel_and_says_of_any_document_what_became_of_it(folder, curated):
    page, data = folder / "funnel.html", folder / "funnel.json"
    for path in (page, data):
        assert tokenmill(folder, "curation", "funnel", curated["run"], "-o", str(path)).returncode == 0
    assert Path(curated["funnel"]).read_text() == page.read_text()
    (twin,) = [r for r in orjson.loads(data.read_bytes())["stages"][2]["reasons"] if r["reason"] == "near_duplicate"]
    identity = twin["examples"][0]["id"]

    done = tokenmill(folder, "curation", "explain", identity[:10], "--json", "--run", curated["run"])
    history = orjson.loads(done.stdout)
    assert history["document"] == identity and history["origins"][0]["licence"]
    assert [stage["fate"] for stage in history["stages"]][-1] == "dropped" and history["models"] == []
    assert history["stages"][-1]["survivor"]["id"] == twin["examples"][0]["survivor"]

    unknown = tokenmill(folder, "curation", "explain", "0123456789abcdef")
    assert unknown.returncode == 2 and unknown.stderr.count("\n") == 1
    assert "no document '0123456789abcdef': searched" in unknown.stderr


def test_a_document_that_was_kept_is_followed_to_the_model_that_learned_from_it(folder, curated, pretrained):
    corpus = open_store(f"file://{folder}/store").get_manifest(curated["outputs"]["corpus"])
    shard = next(shard for shard in corpus.shards if shard.name.startswith("type=book/"))
    record = next(read_jsonl(open_store(f"file://{folder}/store").blob_path(shard.blob)))
    history = orjson.loads(tokenmill(folder, "curation", "explain", record["id"], "--json").stdout)
    assert [stage["step"] for stage in history["stages"]][-2:] == ["curation.order_code", "curation.select_long"]
    assert len(history["stages"]) == 9 and "tokens" in {seen["kind"] for seen in history["used_in"]}
    reached = {model["digest"] for model in history["models"]}
    assert (pretrained["outputs"]["base"] in reached) != all(seen["held_out"] for seen in history["used_in"])


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
    assert caches.pop("pretraining.register_ranks") == "effect"
    assert caches and set(caches.values()) == {"hit"}


def test_sft_alone_goes_on_from_that_base(folder, curated, pretrained):
    made = curated["outputs"] | pretrained["outputs"]
    inputs = [
        part
        for name in ("sources", "corpus", "tokens", "tokenizer", "base")
        for part in ("--input", f"{name}={made[name]}")
    ]
    tuned = run(folder, "sft", *inputs)
    assert set(tuned["outputs"]) == {"sft"}
    weights = open_store(f"file://{folder}/store").get_manifest(tuned["outputs"]["sft"])
    assert weights.parents["base"] == (made["base"],)
    told = finished(folder, tuned)["sft.card"]["outputs"]["output"]["counts"]
    assert told["sources"] == 2 and told["records"] > 50


def working_on(store):
    """Command lines of the processes whose command line or environment names the store."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if str(store) in command or str(store) in process.environ().get("TOKENMILL_STORE", ""):
                found.append(command)
        except psutil.Error:  # it ended while it was looked at, or is not ours to look at
            continue
    return found


def test_a_run_killed_with_9_leaves_no_task_and_no_rank_and_a_rerun_ends_as_if_nothing_had_been(
    folder, tmp_path, curated, pretrained
):
    shutil.copytree(folder / "store", tmp_path / "store")
    for action in (tmp_path / "store" / "actions").iterdir():
        action.unlink()
    arguments = (*SHORT, "--input", f"corpus={curated['outputs']['corpus']}")
    process = start(tmp_path, "run", "pretraining", "--preset", "pico", *arguments)

    store = tmp_path / "store"
    wait_for(lambda: sum("training.worker" in one for one in working_on(store)) > 1, "ranks", 120)
    process.kill()
    process.communicate()
    wait_for(lambda: not working_on(store), "tasks and ranks to die with their run", 10)
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
            [p for n in ("sources", "corpus", "tokens", "tokenizer", "base") for p in ("-i", f"{n}={corpus}")],
            "must be sources",
        ),
    ):
        done = tokenmill(folder, "run", pipeline, "--preset", "pico", *inputs)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_questions_of_ones_own_find_the_documents_that_answer_them(folder, curated):
    corpus = curated["outputs"]["corpus"]
    store = open_store(f"file://{folder}/store")
    documents = [row for s in store.get_manifest(corpus).shards for row in read_jsonl(store.blob_path(s.blob))]
    wanted = max(documents, key=lambda row: len(set(row["text"].split())))
    seeds = folder / "seeds.jsonl"
    seeds.write_bytes(orjson.dumps({"text": " ".join(wanted["text"].split()[:40])}))
    source = f"{{name: seeds, uri: {seeds}, type: qa, licence: CC0-1.0, origin: made for tests}}"

    made = run(folder, "retrieval", "--input", f"corpus={corpus}", "--arg", f"questions=[{source}]")["outputs"]
    assert set(made) == {"retrieved"}
    found = [r for s in store.get_manifest(made["retrieved"]).shards for r in read_jsonl(store.blob_path(s.blob))]
    assert 0 < len(found) < len(documents)
    assert next(row for row in found if row["id"] == wanted["id"])["retrieved"]["rank"] == 0
