"""The whole life of a pico model from the command line; once more, when every pure step is found done; and with a leak."""

import json
from pathlib import Path

import pytest
from life import Life, Lived
from planted_sources import SOURCES, pico_and

from tokenmill.telemetry import METRICS, Board, Page
from tokenmill.tracking import Registry, read_events

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
SECRET = "planted-secret-7f3a"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "TOKENMILL_S3_ENDPOINT": "http://127.0.0.1:9",
}


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    return Life(tmp_path_factory.mktemp("life"), "pico", ENVIRONMENT)


@pytest.fixture(scope="module")
def first(life):
    return life.run()


def test_the_run_passes_its_gate_and_names_its_sources(first):
    assert first.summary["verdict"]["passed"]
    names = {source["name"] for source in first.summary["lineage"]["sources"]}
    assert {"sonnets", "three-kingdoms", "pages", "abacus", "problems"} <= names
    assert all(source["licence"] for source in first.summary["lineage"]["sources"])


def test_every_round_that_is_wanted_is_run_and_the_last_policy_that_was_handed_on_is_released(first):
    tasks = ("snapshot_annotations", "reward_model", "ppo", "probe", "decide")
    assert {f"rlhf.{task}.round-2" for task in tasks} <= set(first.finished)
    assert first.manifest("rlhf.decide.round-2", "policy").digest == first.summary["outputs"]["chat"]
    assert first.manifest("rlhf.ppo.round-2", "weights").digest == first.summary["outputs"]["chat"]


def test_the_registered_model_leads_back_to_every_source(life, first):
    done = life.tokenmill("lineage", "models:/internlm2-chat-pico@candidate", "--json")
    assert done.returncode == 0, done.stderr
    assert "three-kingdoms" in done.stdout and "Apache-2.0" in done.stdout


def test_a_life_tells_every_number_that_prometheus_knows(life, first):
    """What no event of it can say: where no peak, price or plan is known, and what is set beside events."""
    elsewhere = {name for name in METRICS if name.startswith("tokenmill_run_")}
    elsewhere |= {
        f"tokenmill_{name}"
        for name in (
            *(
                "step_progress_ratio",
                "step_records",
                "steps_total",
                "step_budget_seconds",
                "training_mfu_ratio",
                "training_hfu_ratio",
                "training_energy_joules",
            ),
            *("training_cost", "training_budget_used_ratio"),
            *("training_last_step_timestamp_seconds", "training_checkpoint_timestamp_seconds"),
        )
    }
    page, boards = Page(), {}
    for event in read_events(life.store, first.summary["run"]):
        boards.setdefault(event.task, Board(page, event.task)).take(event.kind, event.data, event.time)
    assert {metric for metric, *_ in page.samples()} == set(METRICS) - elsewhere


def test_a_rerun_finds_every_pure_step_done_with_the_same_digests(life, first):
    again = life.run()
    assert {task for task in again.pure if again.finished[task]["cache"] != "hit"} == set()
    assert all(again.finished[task]["outputs"] == first.finished[task]["outputs"] for task in again.pure)


def test_a_planted_secret_is_found_nowhere(life, first):
    """In no file that the run left, in nothing that a person reads on the screen, in no package that is handed on."""
    said = [
        life.tokenmill(*command)
        for command in (
            ("compile", "lifecycle", "--preset", "pico", "-o", "package.yaml"),
            ("doctor",),
            ("lineage", "models:/internlm2-chat-pico@candidate"),
            ("run", "smoke", "--preset", "nanoo"),
            ("step", "curation.filter", "--preset", "pico", "--store", "s3://nobody/here", "-i", "corpus=abcd"),
        )
    ]
    assert (life.folder / "package.yaml").is_file()
    assert all(SECRET not in done.stdout + done.stderr for done in (first.said, *said))
    holders = [p for p in life.folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert holders == []


def leaking_sources(folder: Path) -> Path:
    """Pico's sources, and a notebook that quotes every problem of theirs: those, too, that evaluation will ask.

    Each stands on two of its pages, since some pages are held out of training, as of any source.
    """
    problems = [json.loads(line)["text"] for line in (SOURCES / "pico" / "problems.jsonl").read_text().splitlines()]
    on = [problems[i::20] + problems[(i + 7) % 20 :: 20] for i in range(20)]
    pages = [f"What the teacher wrote down on day {i}.\n\n" + "\n\n".join(quoted) for i, quoted in enumerate(on)]
    return pico_and(folder, "notebook", "".join(json.dumps({"text": page}) + "\n" for page in pages), type="math")


@pytest.fixture(scope="module")
def leaked(life, first) -> Lived:
    sources = leaking_sources(life.folder)
    gate = "evaluation.gate.max_contaminated={'generate/*': 0.0}"
    short = ("--arg", "rounds=0")  # what is refused here, pretraining has read
    return life.run("lifecycle", *short, "--set", f"curation.register_sources.sources={sources}", "--set", gate)


def test_a_model_that_was_trained_on_the_questions_is_refused_and_the_corpus_is_named(life, leaked):
    verdict = leaked.document("evaluation.gate", "verdict.json")
    (check,) = [check for check in verdict["checks"] if not check["passed"]]
    assert check["name"] == "generate/maths in training data" and check["value"] > 0
    corpus = leaked.manifest("curation.order_code").digest
    assert corpus in check["evidence"] and f"corpus {corpus[:12]} of curation.order_code" in check["why"]
    assert leaked.summary["verdict"]["why"] == [f"{check['name']}: {check['why']}"]
    (closed,) = (event.data for event in read_events(life.store, leaked.summary["run"]) if event.kind == "run_closed")
    assert closed["status"] == "succeeded" and corpus[:12] in closed["message"]


def test_what_was_refused_is_registered_as_rejected_and_moves_no_other_alias(life, first, leaked):
    registry, name = Registry(life.store, f"sqlite:///{life.folder}/store/mlflow.db"), "internlm2-chat-pico"
    registration = first.document("deployment.register", "registration.json")
    assert registry.alias_version(name, "candidate") == str(registration["version"])
    rejected = registry.alias_version(name, "rejected")
    assert rejected not in (None, str(registration["version"]))
    tags = registry.client.get_model_version(name, rejected).tags
    assert tags["gate.status"] == "refused" and "generate/maths" in tags["gate.failed"]
    assert tags["gate.verdict"] == leaked.manifest("evaluation.gate").digest
    assert "deployment.bundle" not in leaked.finished
