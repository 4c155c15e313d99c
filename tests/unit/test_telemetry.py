"""Step metrics as Prometheus reads them: parsed by its own client, checked by its own tools where they are installed."""

import multiprocessing
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import toy  # noqa: F401 - registers toy.corpus
from prometheus_client.parser import text_string_to_metric_families
from servers import free_ports

from tokenmill.config import StepConfig, resolve
from tokenmill.errors import InputError
from tokenmill.manifest import Draft
from tokenmill.steps import StepContext, effect, find, run_step
from tokenmill.store import open_store
from tokenmill.telemetry import TEXTFILE, step_ended
from tokenmill.tracking import RunRef, read_events

TOKENIZER = "pretraining.train_tokenizer"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKENMILL_METRICS_DIR", str(tmp_path))
    monkeypatch.delenv("TOKENMILL_PUSHGATEWAY", raising=False)
    return tmp_path


def samples(text: str) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their names) → value."""
    return {
        (s.name, *(value for _, value in sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_a_steps_time_and_runs_are_written_for_the_collector(folder: Path) -> None:
    step_ended("curation.filter", "miss", 12.5)
    step_ended("curation.filter", "miss", 11.0)
    step_ended("curation.filter", "hit", 0.1)
    step_ended("sft.train", "", 3.0, succeeded=False)
    found = samples((folder / TEXTFILE).read_text())
    assert found[("tokenmill_step_seconds", "miss", "curation", "curation.filter")] == 11.0
    assert found[("tokenmill_step_seconds", "hit", "curation", "curation.filter")] == 0.1
    assert found[("tokenmill_steps_total", "miss", "succeeded", "curation", "curation.filter")] == 2
    assert found[("tokenmill_steps_total", "", "failed", "sft", "sft.train")] == 1
    assert found[("tokenmill_step_success", "curation", "curation.filter")] == 1
    assert found[("tokenmill_step_success", "sft", "sft.train")] == 0
    assert [p.name for p in folder.glob("*.prom")] == [TEXTFILE]


@effect("toy.refuses", version=1)
def refuses(config: StepConfig, ctx: StepContext) -> Draft:
    raise InputError("nothing to do")


def test_every_step_that_ends_is_written_done_cached_or_failed(folder: Path, tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    run = RunRef.new("toy")
    corpus = run_step("toy.corpus", StepConfig(), {}, store=store, run=run)["output"]
    config = resolve(find(TOKENIZER).config, TOKENIZER, "pico", {})
    for _ in range(2):
        run_step(TOKENIZER, config, {"corpus": corpus}, store=store, run=run)
    with pytest.raises(InputError, match="nothing to do"):
        run_step("toy.refuses", StepConfig(), {}, store=store, run=run)
    found = samples((folder / TEXTFILE).read_text())
    totals = {labels[1:]: value for labels, value in found.items() if labels[0] == "tokenmill_steps_total"}
    assert totals == {
        ("effect", "succeeded", "toy", "toy.corpus"): 1,
        ("miss", "succeeded", "pretraining", TOKENIZER): 1,
        ("hit", "succeeded", "pretraining", TOKENIZER): 1,
        ("", "failed", "toy", "toy.refuses"): 1,
    }
    assert found[("tokenmill_step_success", "toy", "toy.refuses")] == 0
    seen = [e.data["seconds"] for e in read_events(store, run.key, TOKENIZER) if e.kind == "step_finished"]
    assert [found[("tokenmill_step_seconds", how, "pretraining", TOKENIZER)] for how in ("miss", "hit")] == seen
    if promtool := shutil.which("promtool"):
        text = (folder / TEXTFILE).read_bytes()
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
        assert done.returncode == 0 and not done.stdout and not done.stderr


def test_prometheus_own_linter_has_nothing_to_say(folder: Path) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("no promtool on this machine (apt-get install prometheus)")
    step_ended('odd."name"\\', "miss", 1.0)
    text = (folder / TEXTFILE).read_bytes()
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0 and not done.stdout and not done.stderr


def _many(times: int) -> None:
    for _ in range(times):
        step_ended("curation.filter", "miss", 1.0)


def test_steps_that_end_together_are_all_counted(folder: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=_many, args=(25,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    counted = samples((folder / TEXTFILE).read_text())
    assert counted[("tokenmill_steps_total", "miss", "succeeded", "curation", "curation.filter")] == 100


def test_without_a_folder_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENMILL_METRICS_DIR", raising=False)
    monkeypatch.delenv("TOKENMILL_PUSHGATEWAY", raising=False)
    monkeypatch.chdir(tmp_path)
    step_ended("curation.filter", "miss", 1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "file:///etc/passwd"])
def test_a_gateway_that_is_away_costs_a_line_and_not_the_step(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TOKENMILL_METRICS_DIR", raising=False)
    monkeypatch.setenv("TOKENMILL_PUSHGATEWAY", address)
    step_ended("curation.filter", "miss", 1.0)
    assert capsys.readouterr().err.count("step metrics were not written") == 1


@pytest.mark.integration
def test_a_real_pushgateway_shows_the_latest_run_of_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (binary := shutil.which("prometheus-pushgateway") or shutil.which("pushgateway")) is None:
        pytest.skip("no pushgateway on this machine (apt-get install prometheus-pushgateway)")
    (port,) = free_ports(1)
    monkeypatch.delenv("TOKENMILL_METRICS_DIR", raising=False)
    monkeypatch.setenv("TOKENMILL_PUSHGATEWAY", f"http://127.0.0.1:{port}")
    with (tmp_path / "log").open("wb") as log:
        gateway = subprocess.Popen([binary, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        step_ended("curation.filter", "miss", 12.5)
        step_ended("sft.train", "miss", 99.0)
        step_ended("curation.filter", "hit", 0.5)  # replaces the first
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    finally:
        gateway.kill()
        gateway.wait()
    seconds = {labels[3:]: value for labels, value in samples(text).items() if labels[0] == "tokenmill_step_seconds"}
    assert sorted(seconds.values()) == [0.5, 99.0]
