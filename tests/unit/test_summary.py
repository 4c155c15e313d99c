"""What a run took against what it may: the line a step, the table a phase, the page."""

from pathlib import Path

import pytest
import toy  # noqa: F401 - registers toy.corpus
from planted_run import PlantedRun

from tokenmill.cli.local import Narrator
from tokenmill.cli.summary import as_text, summarise
from tokenmill.config import StepConfig, resolve, step_budgets
from tokenmill.steps import find, run_step
from tokenmill.store import ArtifactStore, open_store
from tokenmill.tracking import RunRef, read_events

TOKENIZER = "pretraining.train_tokenizer"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def planted(store: ArtifactStore, tmp_path: Path) -> RunRef:
    """Two phases: curation within its 30 s, one task of it cached, and SFT over its 40 s."""
    run = RunRef.new("smoke", "nano")
    life = PlantedRun(store, tmp_path, run)
    life.step("curation.filter", {"output": life.draft("corpus")}, seconds=12.0, budget_s=20)
    life.step("curation.grade", {"output": life.draft("corpus")}, seconds=0.5, budget_s=10, cache="hit")
    life.step("sft.train", {"weights": life.draft("weights")}, seconds=50.25, budget_s=40)
    life.step("sft.prepare", {"output": life.draft("conversations")}, seconds=1.0)
    return run


def test_the_summary_sets_actual_time_against_the_budget(store: ArtifactStore, planted: RunRef, tmp_path: Path) -> None:
    summary = summarise(store, planted.key, tmp_path)
    assert summary["phases"] == [
        {"phase": "curation", "seconds": 12.5, "budget_s": 30, "steps": 2, "cached": 1},
        {"phase": "sft", "seconds": 51.2, "budget_s": 40, "steps": 2, "cached": 0},
        {"phase": "total", "seconds": 63.8, "budget_s": 70, "steps": 4, "cached": 1},
    ]
    assert [(s["task"], s["seconds"], s["budget_s"]) for s in summary["steps"]][2] == ("sft.train", 50.25, 40)
    text = as_text(summary)
    words = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert words["curation"] == ["12.5", "30", "2,", "1", "cached"]
    assert words["sft"] == ["51.2", "40", "2", "over", "budget"]
    assert words["total"] == ["63.8", "70", "4,", "1", "cached"]
    assert "over</span>" in (tmp_path / "report.html").read_text()


def test_a_finished_step_is_told_with_its_budget(
    store: ArtifactStore, planted: RunRef, capsys: pytest.CaptureFixture[str]
) -> None:
    Narrator(store, planted.key, quiet=False).tell()
    told = {line.split()[0]: " ".join(line.split()[1:7]) for line in capsys.readouterr().out.splitlines()}
    assert told["curation.filter"] == "done 12.0 s of 20 s"
    assert told["sft.train"] == "done 50.2 s over 40 s"
    assert "of" not in told["sft.prepare"].split()


def test_a_steps_budget_is_its_presets_and_no_part_of_what_it_is(store: ArtifactStore) -> None:
    corpus = run_step("toy.corpus", StepConfig(), {}, store=store, run=RunRef.new("toy"))["output"]
    config = resolve(find(TOKENIZER).config, TOKENIZER, "pico", {})

    def digest_and_budget(preset: str) -> tuple[str, float | None]:
        run = RunRef.new("toy", preset)
        made = run_step(TOKENIZER, config, {"corpus": corpus}, store=store, run=run)["output"]
        started = next(e for e in read_events(store, run.key) if e.kind == "step_started")
        return made.digest, started.data["budget_s"]

    (nano, budget_s), (other, none) = digest_and_budget("nano"), digest_and_budget("no such preset")
    assert nano == other
    assert budget_s == step_budgets("nano")[TOKENIZER] and none is None
