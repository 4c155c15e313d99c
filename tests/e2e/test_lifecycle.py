"""The whole life of a pico model from the command line; and once more, when every pure step is found done."""

import pytest
from life import Life

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
