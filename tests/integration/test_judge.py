"""A judge behind a real HTTP server: how it is asked, what its word is worth, and how it fails."""

import json

import pytest
from judges import judges
from pico import Lab
from typer.testing import CliRunner

from tokenmill.cli import main
from tokenmill.cli.evaluating import eval_app
from tokenmill.errors import UserError
from tokenmill.evaluation import hub
from tokenmill.evaluation.dataset import Dataset
from tokenmill.judge import KEY, Endpoint, compare, rate
from tokenmill.records import JSONL, read_jsonl

pytestmark = pytest.mark.integration


@pytest.fixture
def server():
    with judges() as made:
        yield made


def test_a_pair_is_asked_in_both_orders_and_the_verdict_turns_with_it(server):
    longer = Endpoint(server.url, "longer")
    assert compare("Why?", "a long answer", "short", longer) == "first"
    assert compare("Why?", "short", "a long answer", longer) == "second"
    assert compare("Why?", "equal", "equal", longer) == "tie"
    (path, body, key), (_, other, _) = server.asked[:2]
    assert (path, key, body["temperature"], body["model"]) == ("/v1/chat/completions", None, 0, "longer")
    forth, back = (one["messages"][0]["content"] for one in (body, other))
    assert forth.index("a long answer") < forth.index("short") and back.index("short") < back.index("a long answer")
    assert "Why?" in forth


def test_a_judge_that_prefers_the_first_place_sees_no_difference(server):
    assert compare("Why?", "one", "two", Endpoint(server.url, "first")) == "tie"


def test_no_verdict_is_none(server):
    assert compare("Why?", "one", "two", Endpoint(server.url, "silent")) is None
    assert rate("Why?", "one", Endpoint(server.url, "silent")) is None


@pytest.mark.parametrize(
    ("model", "answer", "rating"), [("length", "xxxxxxxx", 8), ("length", "x" * 11, None), ("half", "", 7.5)]
)
def test_a_rating_is_the_last_number_in_the_form_and_from_1_to_10(server, model, answer, rating):
    assert rate("Why?", answer, Endpoint(server.url.removesuffix("/v1"), model)) == rating


def test_a_busy_server_is_asked_again_and_not_for_ever(server):
    server.failures = [503, 429]
    assert rate("Why?", "four", Endpoint(server.url, "length")) == 4 and len(server.asked) == 3
    server.failures = [500] * 3
    with pytest.raises(UserError, match="HTTP 500"):
        rate("Why?", "four", Endpoint(server.url, "length"))


def test_the_key_comes_from_the_environment_and_is_in_no_message(server, monkeypatch):
    server.key = "planted-secret"
    with pytest.raises(UserError, match=f"HTTP 401; set {KEY}"):
        rate("Why?", "four", Endpoint(server.url, "length"))
    monkeypatch.setenv(KEY, "wrong-secret")
    with pytest.raises(UserError) as refused:
        rate("Why?", "four", Endpoint(server.url, "length"))
    assert "secret" not in str(refused.value)
    monkeypatch.setenv(KEY, "planted-secret")
    assert rate("Why?", "four", Endpoint(server.url, "length")) == 4


def test_a_model_rewrites_a_benchmarks_tests_as_twins(server, tmp_path, monkeypatch, capsys):
    """By the command; the model turns sentences round, which is enough where they are as short as n-grams."""
    options = (
        "{name: n, description: d, language: en, licence: MIT, group: qa, inferencer: deltas, template: '{question}', "
    )
    (tmp_path / "dataset.yaml").write_text(options + "splits: {reference: twins.jsonl}}")
    rows = [
        {"question": q, "answer": "7"}
        for q in ("3 hens sit. 4 ducks swim. How many birds?", "Is 3 less than 7 in a sum?")
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["eval", "twins", str(tmp_path), "--endpoint", server.url, "--model", "reorders"]
    monkeypatch.setattr("sys.argv", ["tokenmill", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and "1 twins of 2 tests, 1 rejected" in capsys.readouterr().out
    twin, rejected = (json.loads((tmp_path / f"twins{x}.jsonl").read_text()) for x in ("", ".rejected"))
    assert (twin["question"], twin["answer"]) == ("How many birds? 4 ducks swim. 3 hens sit.", "7")
    assert twin["rewritten"]["prompt"] in [asked[1]["messages"][0]["content"] for asked in server.asked]
    assert rejected["rewritten"]["rejected"] == "100% of its n-grams are the question's"


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A store with a model of random weights and three datasets: two for a judge, one with right answers."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    rows = [{"q": f"What is {i} + {i}?", "answer": str(2 * i), "theirs": "x" * i} for i in range(12)]
    (lab.folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"description": "d", "language": "en", "licence": "MIT", "group": "qa", "inferencer": "generate"}
    options |= {"template": "{q}"}
    for name, own in {
        "pairs": {"metric": "judge", "baseline": "{theirs}"},
        "rated": {"metric": "judge"},
        "sums": {},
    }.items():
        hub.add(lab.store, Dataset.at("dataset.yaml", options | own | {"name": name}), lab.folder)
    return lab


def evaluated(lab, names, *more):
    """(what `eval run` says of each dataset, what ended it, the predictions by suite)."""
    arguments = [
        "run",
        *names,
        "--weights",
        lab.weights(3).digest,
        "--tokenizer",
        lab.tokenizer.digest,
        "--preset",
        "pico",
    ]
    sets = ["answer_tokens=2", "resamples=100", *more]
    arguments += [f"--set=evaluation.evaluate.{one}" for one in sets]
    done = CliRunner().invoke(eval_app, [*arguments, "--store", lab.store.uri, "--json"])
    rows = {row["dataset"]: row for row in json.loads(done.stdout[done.stdout.index("[") :])}
    predictions = {}
    for name, row in rows.items():
        if "evaluation" in row:
            shard = lab.store.get_manifest(row["evaluation"]).shard(f"predictions{JSONL}")
            predictions[name] = list(read_jsonl(lab.store.blob_path(shard.blob)))
    return rows, done.exception, predictions


def test_a_judge_grades_a_dataset_and_its_words_are_among_the_predictions(server, asked):
    at = f"execution.judge.url={server.url}"
    rows, failed, found = evaluated(asked, ["pairs", "sums"], "judge.model=longer", at)
    assert (rows["pairs"]["metric"], rows["sums"]["metric"], failed) == ("win rate", "accuracy", None)
    for i, row in enumerate(found["pairs"]):
        wanted = 1.0 if len(row["said"]) > i else 0.0 if len(row["said"]) < i else 0.5
        assert row["score"] == wanted and len(row["judge"]) == 2
    assert {row["score"] for row in found["pairs"]} >= {0.0, 1.0}
    assert rows["pairs"]["value"] == pytest.approx(sum(row["score"] for row in found["pairs"]) / 12)

    _, _, found = evaluated(asked, ["rated"], "judge.model=length", at, "judge.max_ungraded=0.99")
    lengths = [len(row["said"]) for row in found["rated"]]
    assert [row["rating"] for row in found["rated"]] == [n if 1 <= n <= 10 else None for n in lengths]
    assert [row["score"] for row in found["rated"]] == [n / 10 if 1 <= n <= 10 else None for n in lengths]


def test_a_judge_that_is_away_or_says_nothing_fails_its_datasets_alone(server, asked):
    away = ["judge.model=length", "execution.judge.url=http://127.0.0.1:9", "execution.judge.tries=1"]
    for more, told in (
        (away, "UserError: the judge at http://127.0.0.1:9 does not answer: ConnectionError"),
        ([], "InputError: a judge grades this suite: name it, evaluation.evaluate.judge.model"),
        (
            ["judge.model=silent", f"execution.judge.url={server.url}"],
            "UserError: the judge silent gave no verdict on 12 of 12 answers",
        ),
    ):
        rows, failed, _ = evaluated(asked, [], *more)
        assert rows["sums"]["n"] == 12 and str(failed) == "2 of 3 datasets failed: pairs, rated"
        for name in ("pairs", "rated"):
            assert rows[name]["failed"].startswith(told) and "\n" not in rows[name]["failed"]


@pytest.mark.parametrize("key", ["planted-secret", None])
def test_a_netrc_neither_replaces_the_key_nor_stands_in_for_one(server, monkeypatch, tmp_path, key):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if key:
        monkeypatch.setenv(KEY, key)
    assert rate("Why?", "four", Endpoint(server.url, "length")) == 4
    assert server.asked.pop()[2] == (key and f"Bearer {key}")
    server.moved = f"http://localhost:{server.server_port}/v1/chat/completions"
    with pytest.raises(UserError, match="HTTP 308; it is at http://localhost"):
        rate("Why?", "four", Endpoint(server.url, "length"))
    assert [sent for _, _, sent in server.asked] == [key and f"Bearer {key}"]


def test_what_is_no_judge_is_said_in_one_line(server):
    with pytest.raises(UserError, match="refuses model unknown: HTTP 404"):
        rate("Why?", "four", Endpoint(server.url, "unknown"))
    with pytest.raises(UserError, match="does not speak OpenAI's chat protocol"):
        rate("Why?", "four", Endpoint(server.url, "nonsense"))
    with pytest.raises(UserError, match="does not answer: ConnectionError"):
        rate("Why?", "four", Endpoint("http://127.0.0.1:9/v1", "length", tries=1))
