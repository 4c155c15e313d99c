"""Two teams beside each other: one MLflow, one bucket, the same release; what each of them has is its own."""

import pytest
import torch
from pico import Lab, released

from tokenmill.deployment.config import RegisterConfig
from tokenmill.errors import ConfigError
from tokenmill.tracking import Registry, RunRef, deliver
from tokenmill.tracking.run import TEAM

pytestmark = pytest.mark.integration


def work(folder, team, monkeypatch):
    """A team's run that registers a release; its lab, its experiment, and the name of its model."""
    monkeypatch.setenv(TEAM, team)
    lab = Lab(folder / team, RunRef.new("test", "pico"))
    made = released(lab)
    registration = lab.step("deployment.register", RegisterConfig(), model=made.release, verdict=made.verdict)["output"]
    return lab, made.release, deliver(lab.store, lab.run.key).experiment, registration


def test_two_teams_share_an_mlflow_and_see_nothing_of_each_other(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    (tmp_path / "team-a").mkdir()
    (tmp_path / "team-b").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    first, release, experiment, _ = work(tmp_path, "team-a", monkeypatch)
    second, same, other, _ = work(tmp_path, "team-b", monkeypatch)
    assert release.content == same.content  # the very same model, and yet:
    assert (experiment, other) == ("tokenmill/team-a/pico", "tokenmill/team-b/pico")
    registry = Registry(first.store)
    names = {model.name for model in registry.client.search_registered_models()}
    assert names == {"team-a-internlm2-chat-pico", "team-b-internlm2-chat-pico"}
    registry.set_alias("team-a-internlm2-chat-pico", "production", "1")
    assert registry.alias_version("team-b-internlm2-chat-pico", "production") is None
    runs = {e.name: registry.client.search_runs([e.experiment_id]) for e in registry.client.search_experiments()}
    assert {run.data.tags.get("team") for run in runs[experiment]} - {None} == {"team-a"}
    assert not {run.info.run_id for run in runs[experiment]} & {run.info.run_id for run in runs[other]}
    for lab, foreign in ((first, second), (second, first)):
        assert not [e.key for e in lab.store.backend.list("runs/") if foreign.run.key in e.key]
        assert set(lab.store.pins()) == {key for key in lab.store.pins() if lab.run.team in key}


def test_a_team_is_named_like_a_namespace(monkeypatch):
    monkeypatch.setenv(TEAM, "Team A/../b")
    with pytest.raises(ConfigError, match="small letters"):
        RunRef.new("test")
