"""What the opening task refuses, in one line and with exit code 2, and what it tells the others."""

import json

import pytest

from tokenmill.pipelines.opening import EXECUTION, open_run

RANKS = "pretraining.pretrain.short.execution.ranks"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENMILL_STORE", f"file://{tmp_path}/store")


def opened(overrides, **rounds):
    return json.loads(open_run("lifecycle", "pico", overrides, "job-1", **rounds))["overrides"]


def refused(capsys, overrides, **rounds) -> str:
    with pytest.raises(SystemExit) as ended:
        opened(overrides, **rounds)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "overrides",
    [
        {RANKS: 1},
        {"pretraining": {"pretrain": {"short": {"execution": {"ranks": 1}}}}},
        {RANKS.removesuffix(".ranks"): {"ranks": 1}},
    ],
)
def test_execution_fields_are_no_parameter_of_a_pipeline(overrides, capsys):
    said = refused(capsys, {"curation.ingest.max_rejected": 0.5} | overrides)
    assert f"identity fields only, not '{RANKS}'" in said and f"tokenmill run --set {RANKS}=" in said


def test_execution_fields_of_a_run_on_this_machine_reach_every_task(monkeypatch):
    monkeypatch.setenv(EXECUTION, json.dumps({RANKS: 1}))
    assert opened({"curation.ingest.max_rejected": 0.5}) == {"curation.ingest.max_rejected": 0.5, RANKS: 1}


def test_wrong_execution_fields_are_refused_too(monkeypatch, capsys):
    monkeypatch.setenv(EXECUTION, json.dumps({RANKS: 0}))
    assert RANKS in refused(capsys, {})


@pytest.mark.parametrize("rounds", [3, -1])
def test_more_rounds_than_the_pipeline_has_are_refused(rounds, capsys):
    assert f"rounds={rounds}: this pipeline has 2 rounds; give 0 to 2" in refused(
        capsys, {}, rounds=rounds, most_rounds=2
    )
    assert opened({}, rounds=2, most_rounds=2) == {}
