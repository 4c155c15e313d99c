"""Written answers, their metrics by name, and scores that are of all answers together."""

import pytest
from sacrebleu import corpus_bleu, corpus_chrf

from tokenmill.evaluation.evaluate import summary
from tokenmill.evaluation.grading import counted, graded, graded_as
from tokenmill.evaluation.statistics import Bootstrap

SAID = ["the cat sat on the mat", "many ships came home with corn", "the king saw a river", "it was bright"] * 5
RIGHT = ["the cat sat on a mat", "many ships came home with wine", "the old king saw a bright river", "it was dark"] * 5


def test_any_of_several_right_answers_will_do():
    record = {"answer": ["Shakespeare", "William Shakespeare"], "extraction": "line", "metric": "exact_match"}
    assert graded("the william Shakespeare\n\nQ:", record) == ("the william Shakespeare", 1.0)
    assert graded("Marlowe", record)[1] == 0.0
    assert graded("42", {"answer": ["41", "42.0"], "extraction": "number", "metric": "same"})[1] == 1.0


def test_a_suite_is_named_by_its_metric():
    assert graded_as("generate", [{"metric": "f1"}]) == "F1" and graded_as("generate", [{}]) == "accuracy"
    assert graded_as("code", [{"samples": 10, "k": 3}]) == "pass@3" and graded_as("code", [{}]) == "pass@1"
    assert graded_as("choice", [{}]) == "accuracy" and graded_as("perplexity", [{}]) == "perplexity"


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_a_translation_is_scored_as_a_corpus_not_as_a_mean_of_sentences(metric):
    """The value is sacrebleu's own of the whole; its interval holds it, and sacrebleu's own bootstrap finds as wide a one."""
    records = [{"answer": right, "metric": metric, "language": "en"} for right in RIGHT]
    predictions = counted([{"found": said, "score": 0.0} for said in SAID], records)
    found = summary(graded_as("generate", records), predictions, Bootstrap(resamples=1000))
    whole = {"bleu": corpus_bleu, "chrf": corpus_chrf}[metric](SAID, [RIGHT]).score / 100
    assert (
        found["value"] == pytest.approx(whole, rel=1e-5) and found["metric"] == {"bleu": "BLEU", "chrf": "chrF"}[metric]
    )
    assert found["ci_low"] < found["value"] < found["ci_high"]
    from sacrebleu.metrics import BLEU, CHRF

    theirs = {"bleu": BLEU, "chrf": CHRF}[metric]().corpus_score(SAID, [RIGHT], n_bootstrap=1000)
    assert (found["ci_high"] - found["ci_low"]) / 2 == pytest.approx(theirs._ci / 100, rel=0.15)


def test_followed_instructions_are_the_mean_of_ifevals_four_numbers():
    from tokenmill.evaluation.instructions import accuracies

    strict = [[True, False], [True], [False, False, True], [True, True]] * 4
    loose = [[True, True], [True], [False, True, True], [True, True]] * 4
    rows = [{"strict": s, "loose": w, "score": float(all(s))} for s, w in zip(strict, loose, strict=True)]
    asked = [{"instructions": []}] * len(rows)
    found = summary(graded_as("instructions", asked), counted(rows, asked), Bootstrap(resamples=300))
    assert found["value"] == pytest.approx(accuracies(strict, loose).mean, rel=1e-6)
    assert found["ci_low"] < found["value"] < found["ci_high"] and "four accuracies" in found["metric"]
