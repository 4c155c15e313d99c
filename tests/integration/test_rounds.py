"""Rounds of RLHF as the pipeline runs them, from an untrained model at pico size: what a decision does to those after it."""

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import orjson
import pytest
from pico import Lab

from tokenmill.lineage import upstream
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.pretraining.config import TokenizeConfig
from tokenmill.sft.requests import requests
from tokenmill.tracking import read_events

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]
ONE_RANK = [f"--set=rlhf.{step}.execution.ranks=1" for step in ("train_reward_model", "ppo")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    return Lab(tmp_path_factory.mktemp("rounds"))


@pytest.fixture(scope="module")
def align(lab):
    """Run the pipeline; returns its summary, and what every task of it made."""
    asked = [m["content"] for both in islice(requests(0), 80) for record in both for m in record["messages"]]
    Tokenizer.train(asked, 512).save(lab.folder / "words")
    tokenizer = lab.issue_folder("tokenizer", lab.folder / "words")
    tokens = lab.step("pretraining.tokenize", TokenizeConfig(), corpus=lab.corpus, tokenizer=tokenizer)["output"]
    path = lab.folder / "pairs.jsonl"
    path.write_bytes(b"".join(map(orjson.dumps, OWN)).replace(b"}{", b"}\n{"))
    facts = {"sources": {"desk": {"licence": "CC0-1.0", "origin": "made for tests"}}}
    sources = lab.issue("sources", {"preferences/desk/pairs.jsonl": path}, facts=facts)
    made = {"sources": sources, "corpus": lab.corpus, "tokens": tokens, "tokenizer": tokenizer, "sft": lab.weights()}
    inputs = [part for name, manifest in made.items() for part in ("--input", f"{name}={manifest.digest}")]

    def run(*options: str):
        command = [sys.executable, "-m", "tokenmill.cli", "run", "alignment", "--preset", "pico", "--json"]
        env = os.environ | {"TOKENMILL_STORE": lab.store.uri, "MLFLOW_TRACKING_URI": ""}
        done = subprocess.run(
            [*command, *inputs, *ONE_RANK, *options],
            cwd=lab.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        summary = orjson.loads(done.stdout)
        events = read_events(lab.store, summary["run"])
        return summary, {e.task: e.data for e in events if e.kind == "step_finished"}

    return run


OWN = [
    {"domain": "helpful", "prompt": f"When do you open on day {day}?", "chosen": f"At {day}.", "rejected": "No."}
    for day in range(30)
]


def output(done, task, role):
    return done[task]["outputs"][role]["digest"]


def test_a_refused_round_ends_the_rounds_and_what_was_before_it_is_handed_on(lab, align):
    """Two iterations gain nothing beyond chance: past the decision every task of round 2 passes its input through."""
    summary, done = align("--set", "rlhf.decide.required=[reward_grew]")
    assert {task for task in done if task.endswith("round-2")} == set()
    assert summary["outputs"]["chat"] == lab.weights().digest
    judged = lab.store.get_manifest(output(done, "rlhf.evaluate_reward_model", "output"))
    assert judged.parents["reward_model"] == (output(done, "rlhf.reward_model.round-1", "weights"),)
    assert "The gain over SFT is within chance" in Path(summary["report"]).read_text()


def test_three_rounds_are_recorded_and_the_users_own_pairs_are_among_what_every_reward_model_learned(lab, align):
    summary, done = align("--arg", "rounds=3", "--set", "rlhf.collect_preferences.judge_share=0.2")
    rounds = [f"round-{number}" for number in (1, 2, 3)]
    for step in ("reward_model", "ppo", "probe", "decide"):
        assert [task.rpartition(".")[2] for task in done if task.startswith(f"rlhf.{step}.round")] == rounds
    assert summary["outputs"]["chat"] == output(done, "rlhf.decide.round-3", "policy")
    read = output(done, "rlhf.read_preferences", "output")
    assert lab.store.get_manifest(read).counts["records"] == len(OWN)
    for number in (1, 2, 3):
        graph = upstream(lab.store, output(done, f"rlhf.reward_model.round-{number}", "weights"))
        assert read in graph.nodes and "desk" in {source.name for source in graph.sources}
        probe = lab.store.get_manifest(output(done, f"rlhf.probe.round-{number}", "evaluation"))
        assert probe.parents["judge"] == (output(done, "rlhf.reward_model.judge", "weights"),)
        assert probe.parents["early"] == (output(done, f"rlhf.ppo.round-{number}", "early"),)
