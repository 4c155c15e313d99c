"""A real training keeps weights of its way; they are scored against the tokens they saw, and a planted drop is told."""

import math

import orjson
import pytest
import toy
from planted_run import PlantedRun

from tokenmill.evaluation.follow import COURSE
from tokenmill.records import JSONL
from tokenmill.steps import configured, find, run_step
from tokenmill.store import open_store
from tokenmill.tracking import RunRef, read_events
from tokenmill.training.exports import apart, together

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
STEPS = 24
OVERRIDES = {
    "pretraining.pretrain.short.tokens": 512 * STEPS,
    "pretraining.pretrain.short.kept": 3,
    "pretraining.pretrain.short.execution.ranks": 1,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Store, tokenizer, what the training made, and questions: its own text and nonsense to choose between."""
    root = tmp_path_factory.mktemp("followed")
    store = open_store(f"file://{root}/store")
    tokens, tokenizer = toy.tokens(store)
    made = toy.run("pretraining.pretrain.short", store, overrides=OVERRIDES, tokens=tokens, tokenizer=tokenizer)
    lab = PlantedRun(store, root, RunRef(key="planted", name="smoke", preset="pico"))
    texts = [toy.sentences(1000 + n, 2) for n in range(12)]
    choices = [
        {"id": f"c{n}", "question": "", "choices": [text[:60], "zq" * 30], "answer": 0} for n, text in enumerate(texts)
    ]
    files = {
        f"perplexity/en{JSONL}": [{"id": f"p{n}", "text": text} for n, text in enumerate(texts)],
        f"choice/line{JSONL}": choices,
        f"format/chat{JSONL}": [{"id": "f", "messages": [{"role": "user", "content": "Hello"}]}],
    }
    questions = lab.step("evaluation.prepare", {"output": lab.draft("questions", files)})["output"]
    return store, lab, tokenizer, made, questions


def follow(store, kept, tokenizer, questions):
    run = RunRef.new("test", "pico")
    config = configured(find("evaluation.follow"), "pico", {})
    course = run_step(
        "evaluation.follow",
        config,
        {"kept": kept, "tokenizer": tokenizer, "questions": questions},
        store=store,
        run=run,
    )["output"]
    return orjson.loads(store.get_blob(course.shard(COURSE).blob)), list(read_events(store, run.key))


def test_every_kept_checkpoint_is_scored_against_the_tokens_it_saw(trained):
    store, _, tokenizer, made, questions = trained
    way = apart(made["kept"])
    assert [one.counts["steps"] for one in way] == [8, 16, 24]
    assert [s.blob for s in way[-1].shards] == [s.blob for s in made["weights"].shards], "the last are what comes out"
    course, events = follow(store, [made["kept"]], tokenizer, questions)
    tokens = [point["tokens"] for point in course["points"]]
    assert tokens == [one.counts["tokens_seen"] for one in way] and tokens == sorted(tokens)
    assert {suite for point in course["points"] for suite in point["suites"]} == {"perplexity/en", "choice/line"}
    read = [point["suites"]["perplexity/en"]["value"] for point in course["points"]]
    assert read[0] > read[-1] and not course["drops"], "it learns, and what it learns stays"
    curve = {
        e.data["step"]: e.data["values"]["evaluation/perplexity/en"]
        for e in events
        if e.kind == "metrics" and "evaluation/perplexity/en" in e.data["values"]
    }
    assert curve == dict(zip(tokens, read, strict=True)), "MLflow's curve is against tokens"
    alone = run_evaluation(store, made["weights"], tokenizer, questions)
    assert alone["suites"]["perplexity/en"]["value"] == pytest.approx(read[-1], rel=1e-5)


def run_evaluation(store, weights, tokenizer, questions):
    config = configured(find("evaluation.evaluate"), "pico", {}, {"label": "base", "form": "plain"})
    inputs = {"weights": weights, "tokenizer": tokenizer, "questions": questions}
    made = run_step("evaluation.evaluate", config, inputs, store=store, run=RunRef.new("test", "pico"))["output"]
    return orjson.loads(store.get_blob(made.shard("evaluation.json").blob))


def test_weights_that_lost_what_they_knew_are_told_with_event_and_metric(trained, capsys):
    """The first weights again, as if they were the last: what was learned between is lost."""
    store, lab, tokenizer, made, questions = trained
    way = apart(made["kept"])
    lost = way[0].model_copy(update={"counts": {"tokens_seen": 99_999, "steps": 99}})
    kept = lab.step("pretraining.pretrain", {"kept": together([*way, lost])})["kept"]
    course, events = follow(store, [kept], tokenizer, questions)
    (drop,) = [drop for drop in course["drops"] if drop["suite"] == "perplexity/en"]
    assert drop["tokens"] == 99_999 and drop["best_tokens"] == way[-1].counts["tokens_seen"]
    before, after = (course["points"][n]["suites"]["perplexity/en"]["loss"] for n in (2, 3))
    assert drop["difference"] == pytest.approx(before - after, rel=1e-3) and drop["difference"] < -3 * drop["se"]
    assert [e.data["values"]["drops"] for e in events if e.kind == "metrics" and "drops" in e.data["values"]] == [
        float(len(course["drops"]))
    ]
    assert "a score fell beyond chance" in capsys.readouterr().err
    assert math.isfinite(drop["se"])


def test_nothing_kept_is_a_course_without_points(trained):
    store, lab, tokenizer, _, questions = trained
    kept = lab.step("pretraining.pretrain", {"kept": together([])})["kept"]
    course, _ = follow(store, [kept, kept], tokenizer, questions)
    assert course == {"points": [], "drops": []}
