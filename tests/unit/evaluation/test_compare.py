"""Before and after: means, paired errors, groups. Oracles are computed here, by hand and with the textbook's formula."""

import math
import random

import orjson
import pytest
import yaml
from pico import Lab

from tokenmill.errors import InputError
from tokenmill.evaluation.compare import COMPARISON, COMPARISON_TEXT, group_of
from tokenmill.evaluation.config import GROUPS, CompareConfig
from tokenmill.records import JSONL, write_jsonl


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def evaluation(lab, label, suites, **facts):
    """An evaluation artifact of made-up predictions: suite → {question: score, or (loss, tokens)}."""
    told = {"label": label, "form": "plain", "model": label, "tokenizer": "t", "questions": "q", "contamination": {}}
    told |= {"suites": {name: {"metric": "m", "value": 1.0} for name in suites}} | facts
    rows = []
    for name, predictions in suites.items():
        for question, value in predictions.items():
            loss = (
                {"loss": value[0], "tokens": value[1], "score": None} if isinstance(value, tuple) else {"score": value}
            )
            rows.append({"suite": name, "id": question} | loss)
    folder = lab.folder / f"evaluation-{label}"
    folder.mkdir()
    (folder / "evaluation.json").write_bytes(orjson.dumps(told))
    write_jsonl(folder / f"predictions{JSONL}", rows)
    return lab.issue_folder("evaluation", folder)


def compared(lab, before, after, **config):
    made = lab.step("evaluation.compare", CompareConfig(**config), before=before, after=after)["output"]
    document = orjson.loads(lab.store.get_blob(made.shard(COMPARISON).blob))
    return made, {(g["name"], g["measure"]): g for g in document["groups"]}, {s["name"]: s for s in document["suites"]}


def test_means_differences_and_groups_are_those_of_the_hand(lab):
    before = evaluation(
        lab, "base", {"generate/gsm8k": {"a": 0.0, "b": 1.0}, "choice/bbh": {"a": 0.0, "b": 0.0}, "perplexity/math": {"d": (20.0, 10), "e": (30.0, 30)}}
    )  # fmt: skip
    after = evaluation(
        lab, "enhanced", {"generate/gsm8k": {"a": 1.0, "b": 1.0}, "choice/bbh": {"a": 1.0, "b": 0.0}, "perplexity/math": {"d": (10.0, 10), "e": (30.0, 30)}}
    )  # fmt: skip
    made, groups, suites = compared(lab, before, after)
    assert made.kind == "comparison" and made.counts["groups"] == 2
    score, loss = groups["reasoning", "score"], groups["reasoning", "loss"]
    assert (score["before"], score["after"], score["difference"], score["n"]) == (0.25, 0.75, 0.5, 2)
    assert (loss["before"], loss["after"], loss["difference"]) == (
        50 / 40,
        1.0,
        -10 / 40,
    )  # a document counts as its tokens
    assert suites["perplexity/math"]["group"] == "reasoning"
    assert "| reasoning | score | 0.25 | 0.75 | +0.5 ±" in lab.store.get_blob(made.shard(COMPARISON_TEXT).blob).decode()


def test_the_error_is_that_of_paired_differences(lab):
    """Two models that are right and wrong together differ far less surely by two means than question by question."""
    draw = random.Random(0)
    old = {str(i): float(draw.random() < 0.5) for i in range(400)}
    new = {i: 1.0 if int(i) % 20 == 0 else x for i, x in old.items()}
    _, _, suites = compared(
        lab, evaluation(lab, "a", {"choice/piqa": old}), evaluation(lab, "b", {"choice/piqa": new}), resamples=4000
    )
    differences = [new[i] - old[i] for i in old]
    mean = sum(differences) / 400
    textbook = math.sqrt(sum((d - mean) ** 2 for d in differences) / 400 / 400)
    assert suites["choice/piqa"]["se"] == pytest.approx(textbook, rel=0.05)
    apart = math.sqrt(2 * 0.25 / 400)
    assert suites["choice/piqa"]["se"] < apart / 2 and suites["choice/piqa"]["better"] is True


def test_chance_is_called_neither_better_nor_worse_and_a_rising_loss_is_worse(lab):
    before = evaluation(
        lab,
        "a",
        {
            "choice/nq": {str(i): float(i % 2) for i in range(100)},
            "perplexity/zh": {str(i): (2.0 + i % 3, 1) for i in range(50)},
        },
    )
    after = evaluation(
        lab,
        "b",
        {
            "choice/nq": {str(i): float(i % 2 == 0 or i < 4) for i in range(100)},
            "perplexity/zh": {str(i): (3.0 + i % 3, 1) for i in range(50)},
        },
    )
    made, groups, _ = compared(lab, before, after)
    assert groups["qa", "score"]["difference"] == pytest.approx(0.02)  # 98 answers changed, 50 of them for the better
    assert groups["qa", "score"]["better"] is None
    assert groups["language", "loss"]["better"] is False
    assert (made.counts["better"], made.counts["worse"]) == (0, 1)


def test_a_diverged_model_has_no_number_and_a_group_of_it_neither(lab):
    before = evaluation(lab, "a", {"perplexity/en": {"d": (2.0, 1)}, "perplexity/zh": {"d": (2.0, 1)}})
    after = evaluation(lab, "b", {"perplexity/en": {"d": (None, 1)}, "perplexity/zh": {"d": (1.0, 1)}})
    _, groups, suites = compared(lab, before, after)
    assert suites["perplexity/en"]["difference"] is None and groups["language", "loss"]["difference"] is None
    assert suites["perplexity/zh"]["difference"] == -1.0


@pytest.mark.parametrize("what", ["questions", "tokenizer", "form"])
def test_what_cannot_be_compared_is_refused(lab, what):
    suites = {"choice/nq": {"a": 1.0}}
    with pytest.raises(InputError, match=f"have another {what} each"):
        compared(lab, evaluation(lab, "a", suites), evaluation(lab, "b", suites, **{what: "other"}))


def test_groups_are_the_reports_and_every_suite_of_ours_is_in_one():
    figure_12 = """
        coding: [humaneval, mbpp]
        reasoning: [math, gsm8k, summedits, bbh]
        qa: [hellaswag, piqa, winogrande, openbookqa, nq, triviaqa]
        exam: [mmlu, agieval, ceval]
    """
    for group, benchmarks in yaml.safe_load(figure_12).items():
        assert {group_of(f"{mode}/{name}", GROUPS) for mode in ("generate", "choice") for name in benchmarks} == {group}
    ours = {
        "coding": ["perplexity/code"],
        "reasoning": ["perplexity/math", "generate/maths", "choice/larger"],
        "qa": ["choice/next_line"],
        "language": ["perplexity/en", "perplexity/zh"],
        "instructions": ["perplexity/chat", "generate/chat", "format/chat"],
    }
    assert all(group_of(suite, GROUPS) == group for group, suites in ours.items() for suite in suites)
    assert group_of("choice/unheard_of", GROUPS) == "other"


def test_what_was_gained_and_lost_is_named_and_the_interval_is_of_paired_differences(lab):
    """Twenty questions gained, five lost, seventy-five as before: a mean of 0.15, its interval by the textbook's formula."""
    old = {f"{i:03d}": 0.0 if i < 20 else 1.0 for i in range(100)}
    new = {id: 1.0 - x if int(id) < 25 else x for id, x in old.items()}
    made, _, suites = compared(
        lab, evaluation(lab, "a", {"choice/nq": old}), evaluation(lab, "b", {"choice/nq": new}), resamples=4000
    )
    document = orjson.loads(lab.store.get_blob(made.shard(COMPARISON).blob))
    flips = document["flips"]["choice/nq"]
    assert flips["gained"] == [f"{i:03d}" for i in range(20)] and flips["lost"] == [f"{i:03d}" for i in range(20, 25)]
    half = 1.96 * math.sqrt((20 + 5 - 100 * 0.15**2) / 100 / 100)
    found = suites["choice/nq"]
    assert (found["low"], found["high"]) == (pytest.approx(0.15 - half, abs=0.02), pytest.approx(0.15 + half, abs=0.02))
    assert document["confidence"] == 0.95
