"""Step metrics as Prometheus reads them: parsed by its own client, checked by its own tools where they are installed."""

import multiprocessing
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import toy  # noqa: F401 - registers toy.corpus
from prometheus_client.parser import text_string_to_metric_families
from servers import free_ports

from tokenmill.config import StepConfig, resolve
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.pipelines.opening import close_run, open_run
from tokenmill.records import JSONL, read_jsonl
from tokenmill.steps import Drop, Keep, Reject, StepContext, effect, find, run_step, step
from tokenmill.steps.component import RunContext
from tokenmill.steps.outcomes import Outcome
from tokenmill.store import open_store
from tokenmill.telemetry import METRICS, Board, Page, leave, leave_run
from tokenmill.telemetry.catalogue import RULES, metric_of
from tokenmill.telemetry.leaving import TEXTFILE
from tokenmill.tracking import RunRef, read_events

TOKENIZER = "pretraining.train_tokenizer"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKENMILL_METRICS_DIR", str(tmp_path))
    monkeypatch.delenv("TOKENMILL_PUSHGATEWAY", raising=False)
    return tmp_path


def samples(text: str) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their names, empty ones left out) → value."""
    return {
        (s.name, *(value for _, value in sorted(s.labels.items()) if value)): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def step_ended(step: str, cache: str, seconds: float, task: str = "", run: str = "r1") -> None:
    """What a step of one run leaves; without `cache` it failed."""
    board = Board(Page(), task or step, step)
    board.take("step_started", {"step": step, "budget_s": None}, 100.0)
    if cache:
        board.take("step_finished", {"outputs": {}, "cache": cache, "seconds": seconds}, 100.0 + seconds)
    else:
        board.take("step_failed", {}, 100.0 + seconds)
    leave(board.page, run, board.labels, cache)


def test_numbers_of_events_are_metrics_in_base_units() -> None:
    board = Board(Page(), "pretraining.pretrain.short", "pretraining.pretrain")
    told = {
        "loss": 2.5,
        "heldout/book-en": 3.0,
        "perf/step/forward_s": 0.5,
        "perf/memory_gib": 2.0,
        "loss/book/en": 9.0,
    }
    board.take("metrics", {"values": told | {"perf/mfu": "nan"}, "step": 4096}, 1.0)
    own = ("pretraining", "pretraining.pretrain", "pretraining.pretrain.short")
    found = samples(board.page.text().decode())
    mfu = found.pop(("tokenmill_training_mfu_ratio", *own))
    assert mfu != mfu, "a number that is none stays none"
    assert found == {
        ("tokenmill_training_loss_nats", *own): 2.5,
        ("tokenmill_training_heldout_loss_nats", "book-en", *own): 3.0,
        ("tokenmill_training_step_part_seconds", "forward", *own): 0.5,
        ("tokenmill_training_memory_bytes", *own): 2147483648.0,
        ("tokenmill_training_tokens", *own): 4096.0,
    }


def test_an_output_is_told_by_records_bytes_and_reasons() -> None:
    board = Board(Page(), "curation.filter")
    board.take("step_started", {"step": "curation.filter", "budget_s": 60.0}, 1.0)
    corpus = {"kind": "corpus", "counts": {"records": 90}, "dropped": {"short": 7, "spam": 3}, "bytes": 1234}
    verdict = {"kind": "verdict", "counts": {"passed": 0, "checks": 9, "failed": 2}, "dropped": {}, "bytes": 10}
    board.take("step_finished", {"outputs": {"o": corpus, "v": verdict}, "cache": "miss", "seconds": 2.0}, 3.0)
    values = {
        (metric, labels.get("reason") or labels.get("output")): value for metric, labels, value in board.page.samples()
    }
    assert values[("tokenmill_output_records", "o")] == 90
    assert values[("tokenmill_output_bytes", "o")] == 1234
    assert values[("tokenmill_dropped_records", "short")] == 7
    assert values[("tokenmill_dropped_records", "spam")] == 3
    assert values[("tokenmill_gate_passed", None)] == 0
    assert values[("tokenmill_gate_failed_checks", None)] == 2
    assert values[("tokenmill_step_budget_seconds", None)] == 60


def test_parts_of_a_step_are_one_task_with_what_they_made_together() -> None:
    def part(number: int, records: int, dropped: int, ended: float) -> Page:
        board = Board(Page(), f"curation.filter.group-{number:05d}")
        board.take("step_started", {"step": "curation.filter", "budget_s": None}, ended - 2)
        corpus = {"kind": "corpus", "counts": {"records": records}, "dropped": {"short": dropped}, "bytes": 10}
        board.take("step_finished", {"outputs": {"o": corpus}, "cache": "miss", "seconds": 2.0}, ended)
        return board.page

    failed = Board(Page(), "curation.filter.group-00002")
    failed.take("step_started", {"step": "curation.filter", "budget_s": None}, 50.0)
    failed.take("step_failed", {}, 51.0)
    whole = Page.of_all([part(0, 90, 7, 12.0), part(1, 30, 1, 99.0), failed.page])
    assert {labels["task"] for _, labels, _ in whole.samples()} == {"curation.filter"}
    values = {metric: value for metric, _, value in whole.samples()}
    assert values == {
        "tokenmill_step_started_timestamp_seconds": 10.0,
        "tokenmill_step_finished_timestamp_seconds": 99.0,
        "tokenmill_step_seconds": 4.0,
        "tokenmill_step_success": 0.0,
        "tokenmill_output_records": 120.0,
        "tokenmill_output_bytes": 20.0,
        "tokenmill_dropped_records": 8.0,
    }


def test_a_textfile_of_another_version_stops_nothing(folder: Path) -> None:
    (folder / TEXTFILE).write_text(
        'tokenmill_step_seconds{phase="a",step="a.b",task="a.b",cache="miss",shard="9"} 1.0\n'
        'tokenmill_step_seconds{phase="a",step="a.c",task="a.c",cache="miss"} 2.0\n'
    )
    step_ended("curation.filter", "miss", 3.0)
    left = samples((folder / TEXTFILE).read_text())
    assert {key[-1]: value for key, value in left.items() if key[0] == "tokenmill_step_seconds"} == {
        "a.c": 2.0,
        "curation.filter": 3.0,
    }


def test_a_name_means_what_its_step_means_by_it() -> None:
    assert metric_of("accuracy", "rlhf.dpo")[0].metric == "tokenmill_rlhf_pair_accuracy_ratio"
    assert metric_of("accuracy", "curation.train_scorer") is None
    assert metric_of("fine_tuning/loss", "curation.fine_tune_scorer") is None  # it is at steps, not at tokens
    assert metric_of("reward", "rlhf.ppo")[1] == {"domain": "all"}
    assert metric_of("evaluation/delta1/choice", "evaluation.evaluate")[1] == {"delta": "delta1", "suite": "choice"}
    assert metric_of("evaluation/choice/next_line", "evaluation.evaluate")[1] == {"suite": "choice/next_line"}


def test_rules_name_metrics_of_the_catalogue_with_their_labels() -> None:
    for rule in RULES:
        assert set(rule.pattern.groupindex) == set(METRICS[rule.metric].labels), rule
    with pytest.raises(ValueError, match="no label"):
        Page().set("tokenmill_training_loss_nats", 1.0, colour="red")


def test_a_steps_time_and_runs_are_written_for_the_collector(folder: Path) -> None:
    step_ended("curation.filter", "miss", 12.5)
    step_ended("curation.filter", "miss", 11.0)
    step_ended("curation.filter", "hit", 0.1)
    step_ended("sft.train", "", 3.0)
    found = samples((folder / TEXTFILE).read_text())
    at = ("curation", "curation.filter", "curation.filter")
    assert {k: v for k, v in found.items() if k[0] == "tokenmill_step_seconds"} == {
        ("tokenmill_step_seconds", "hit", *at): 0.1  # the latest run alone
    }
    assert found[("tokenmill_steps_total", "miss", "succeeded", *at)] == 2
    assert found[("tokenmill_steps_total", "failed", "sft", "sft.train", "sft.train")] == 1
    assert found[("tokenmill_step_success", *at)] == 1
    assert found[("tokenmill_step_success", "sft", "sft.train", "sft.train")] == 0
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
        ("effect", "succeeded", "toy", "toy.corpus", "toy.corpus"): 1,
        ("miss", "succeeded", "pretraining", TOKENIZER, TOKENIZER): 1,
        ("hit", "succeeded", "pretraining", TOKENIZER, TOKENIZER): 1,
        ("failed", "toy", "toy.refuses", "toy.refuses"): 1,
    }
    assert found[("tokenmill_step_success", "toy", "toy.refuses", "toy.refuses")] == 0
    seen = [e.data["seconds"] for e in read_events(store, run.key, TOKENIZER) if e.kind == "step_finished"]
    assert found[("tokenmill_step_seconds", "hit", "pretraining", TOKENIZER, TOKENIZER)] == seen[-1]
    if promtool := shutil.which("promtool"):
        text = (folder / TEXTFILE).read_bytes()
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
        assert done.returncode == 0 and not done.stdout and not done.stderr


@step("toy.in_shards", version=1)
def in_shards(config: StepConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    records = list(ctx.records(corpus))
    return ctx.write_records("corpus", {f"part-{n:05d}{JSONL}": records[n::3] for n in range(3)})


@step("toy.watched", version=1)
def sift(config: StepConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    return ctx.map_shards(corpus, without_foxes, max_rejected=0.5)


def without_foxes(record: dict[str, str]) -> Outcome | dict[str, str]:
    if record["id"].endswith("7"):
        return Reject("odd one (seven)", record["id"])
    return Drop("fox", record) if "fox" in record["text"].split()[:9] else record


SHOWN_MEANWHILE: list[float] = []
"""How many records Prometheus was shown when the stream was at its 21st."""


@step("toy.watched_stream", version=1)
def sift_stream(config: StepConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    def watched() -> Iterator[Outcome]:
        for number, outcome in enumerate(outcomes(ctx.records(corpus)), 1):
            if number == 21 and ctx.board:
                told = ctx.board.page.samples()
                SHOWN_MEANWHILE.append(sum(value for name, _, value in told if name == "tokenmill_step_records"))
            yield outcome

    return ctx.partition(watched(), by=whole, max_rejected=0.5)


@step("toy.watched_parts", version=1)
def sift_parts(config: StepConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    records = list(ctx.records(corpus))
    parts = {"one": records[:15], "other": records[15:]}
    return ctx.partition_parts(outcomes, parts, by=whole, max_rejected=0.5)


@step("toy.watched_groups", version=1)
def sift_groups(config: StepConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """As deduplication applies what it found: a group of shards at a time."""
    for shard in corpus.shards[:-1]:
        ctx.map_shards(corpus.model_copy(update={"shards": (shard,)}), without_foxes, max_rejected=0.5)
    return ctx.map_shards(corpus.model_copy(update={"shards": corpus.shards[-1:]}), without_foxes, max_rejected=0.5)


def outcomes(records: Iterable[dict[str, str]]) -> Iterator[Outcome]:
    for record in records:
        became = without_foxes(record)
        yield Keep(became) if isinstance(became, dict) else became


def whole(record: dict[str, str]) -> str:
    return "all"


@pytest.mark.parametrize("name", ["toy.watched", "toy.watched_stream", "toy.watched_parts", "toy.watched_groups"])
def test_a_step_that_works_shows_what_it_has_gone_through(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenmill.steps.context.SHOWN_EVERY", 9)
    store = open_store(f"file://{tmp_path}/store")
    run = RunRef.new("toy")
    corpus = run_step("toy.corpus", StepConfig(), {}, store=store, run=run)["output"]
    corpus = run_step("toy.in_shards", StepConfig(), {"corpus": corpus}, store=store, run=run)["output"]
    records = [r for shard in corpus.shards for r in read_jsonl(store.blob_path(shard.blob))]
    run_step(name, StepConfig(), {"corpus": corpus}, store=store, run=run)
    found = samples((folder / TEXTFILE).read_text())
    at = ("toy", name, name)
    became = Counter(type(without_foxes(record)) for record in records)
    assert min(became.values()) > 0 and became.total() == 40
    assert found[("tokenmill_step_records", "kept", *at)] == became[dict]
    assert found[("tokenmill_step_records", "dropped", "toy", "fox", *at[1:])] == became[Drop]
    assert found[("tokenmill_step_records", "rejected", "toy", "odd one", *at[1:])] == became[Reject]
    assert sum(value for (metric, *_), value in found.items() if metric == "tokenmill_step_records") == 40
    if name == "toy.watched":
        assert found[("tokenmill_step_progress_ratio", *at, "shards")] == 1
    if name == "toy.watched_stream":
        assert SHOWN_MEANWHILE.pop() == 18


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
    assert (
        counted[("tokenmill_steps_total", "miss", "succeeded", "curation", "curation.filter", "curation.filter")] == 100
    )


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


def test_a_gateway_that_speaks_no_http_costs_a_line_and_not_the_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as asked:
                asked.recv(1 << 16)
                asked.sendall(b"220 mail.example ready\r\n")

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.delenv("TOKENMILL_METRICS_DIR", raising=False)
        monkeypatch.setenv("TOKENMILL_PUSHGATEWAY", f"http://127.0.0.1:{server.getsockname()[1]}")
        step_ended("curation.filter", "miss", 1.0)
    assert capsys.readouterr().err.count("step metrics were not written") == 1


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real Pushgateway's address, which steps are told too."""
    if (binary := shutil.which("prometheus-pushgateway") or shutil.which("pushgateway")) is None:
        pytest.skip("no pushgateway on this machine (apt-get install prometheus-pushgateway)")
    (port,) = free_ports(1)
    monkeypatch.delenv("TOKENMILL_METRICS_DIR", raising=False)
    monkeypatch.setenv("TOKENMILL_PUSHGATEWAY", f"http://127.0.0.1:{port}")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([binary, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def pushed(gateway: str) -> dict[str, set[tuple[str, str, float]]]:
    """Group (a run, or a pipeline) → (task, cache, seconds)."""
    text = urllib.request.urlopen(f"{gateway}/metrics", timeout=5).read().decode()
    found: dict[str, set[tuple[str, str, float]]] = {}
    for family in text_string_to_metric_families(text):
        for s in family.samples:
            if s.name == "tokenmill_step_seconds":
                group = s.labels.get("run") or s.labels["pipeline"]
                found.setdefault(group, set()).add((s.labels["task"], s.labels["cache"], s.value))
    return found


@pytest.mark.integration
def test_at_a_pushgateway_runs_never_meet_and_a_task_of_one_replaces_itself(gateway: str) -> None:
    step_ended("curation.filter", "miss", 12.5, run="r1")
    step_ended("curation.filter", "miss", 7.0, run="r2")
    step_ended("evaluation.evaluate", "miss", 3.0, task="evaluation.evaluate.base", run="r1")
    step_ended("evaluation.evaluate", "miss", 4.0, task="evaluation.evaluate.chat", run="r1")
    step_ended("curation.filter", "hit", 0.5, run="r1")  # a retry, of the same task
    assert pushed(gateway) == {
        "r1": {
            ("curation.filter", "hit", 0.5),
            ("evaluation.evaluate.base", "miss", 3.0),
            ("evaluation.evaluate.chat", "miss", 4.0),
        },
        "r2": {("curation.filter", "miss", 7.0)},
    }
    whole = Page()
    board = Board(whole, "curation.filter", "curation.filter")
    board.set("tokenmill_step_seconds", 0.5, cache="hit")
    tasks = ["curation.filter", "evaluation.evaluate.base", "evaluation.evaluate.chat", "never.pushed"]
    leave_run(whole, "r1", tasks, "lifecycle", "nano")
    assert pushed(gateway) == {
        "lifecycle": {("curation.filter", "hit", 0.5)},
        "r2": {("curation.filter", "miss", 7.0)},
    }


@pytest.mark.integration
def test_a_run_that_closes_leaves_one_group_of_its_pipeline(
    gateway: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENMILL_STORE", f"file://{tmp_path}/store")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = open_store(f"file://{tmp_path}/store")
    run = RunContext.model_validate_json(open_run("curation", "pico", {}, "job-1")).run
    run_step("toy.corpus", StepConfig(), {}, store=store, run=run)
    with pytest.raises(InputError):
        run_step("toy.refuses", StepConfig(), {}, store=store, run=run)
    assert pushed(gateway).keys() == {"job-1"}
    close_run("job-1", "FAILED", "")
    assert pushed(gateway).keys() == {"curation"}
    text = urllib.request.urlopen(f"{gateway}/metrics", timeout=5).read().decode()
    told = {
        (s.name, s.labels.get("task", "")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.labels.get("preset") == "pico"
    }
    assert told[("tokenmill_run_success", "")] == 0
    assert told[("tokenmill_step_success", "toy.refuses")] == 0
    assert told[("tokenmill_step_success", "toy.corpus")] == 1
    assert told[("tokenmill_output_records", "toy.corpus")] > 0
