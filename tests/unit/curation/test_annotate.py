"""Annotation rounds and thresholds. Oracles: brute force over all thresholds, and hand-made samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.curation.annotate import agreement, choose_samples, conflicts, predict, sample_row, thresholds
from tokenmill.curation.labels import Label
from tokenmill.curation.scorer_config import ChooseThresholdsConfig, ExportSamplesConfig
from tokenmill.curation.thresholds import Limits, choose_threshold
from tokenmill.errors import InputError


def document(n: int, value: float | None, lang: str = "en", kind: str = "web") -> dict:
    scores = {} if value is None else {"fluency": value}
    return {"id": str(n), "text": f"text {n} " * 50, "lang": lang, "type": kind, "scores": scores}


# --- samples ---------------------------------------------------------------------------------------------------------


def test_extremes_are_confident_ones_of_both_sides_drawn_alike_whatever_the_order():
    config = ExportSamplesConfig(samples=10, low=0.1, high=0.9)
    documents = [document(n, n / 1000, ("en", "zh")[n % 2]) for n in range(1001)] + [document(2000, None)]
    chosen = choose_samples(documents, config)
    assert chosen == choose_samples(documents[::-1], config)
    for lang in ("en", "zh"):
        values = [d["scores"]["fluency"] for d in chosen if d["lang"] == lang]
        assert sorted(v <= 0.1 for v in values) == [False] * 5 + [True] * 5
        assert all(v <= 0.1 or v >= 0.9 for v in values)
    assert (
        len({d["scores"]["fluency"] for d in chosen if d["scores"]["fluency"] >= 0.9} - {0.999, 1.0}) > 5
    )  # no top list


def test_borderline_samples_are_the_nearest_to_the_threshold_on_both_sides():
    config = ExportSamplesConfig(select="borderline", around=0.4, samples=6)
    chosen = choose_samples([document(n, n / 100) for n in range(100)], config)
    assert sorted(d["scores"]["fluency"] for d in chosen) == [0.37, 0.38, 0.39, 0.4, 0.41, 0.42]


def test_a_sample_shows_the_prediction_and_leaves_the_label_to_the_annotator():
    row = sample_row(document(1, 0.95), ExportSamplesConfig(max_characters=100))
    assert row["label"] is None and row["predicted"] == 0.95 and len(row["text"]) == 100 and row["score"] == "fluency"


# --- validation ------------------------------------------------------------------------------------------------------


def label(text: str, value: float, score: str = "fluency", lang: str = "en") -> Label:
    return Label(score, lang, "web", text, value)


def test_conflicts_are_the_labels_on_the_other_side_the_most_confident_first():
    labels = [label("a", 1), label("b", 1), label("c", 0), label("d", 0)]
    found = conflicts(labels, np.array([0.9, 0.4, 0.1, 0.99]))
    assert [(row["text"], row["predicted"]) for row in found] == [("d", 0.99), ("b", 0.4)]


def test_agreement_is_told_by_language():
    labels = [
        label("a", 1),
        label("b", 0),
        label("c", 1, lang="zh"),
        label("d", 0, lang="zh"),
        label("e", 1, lang="fr"),
    ]
    found = agreement(labels, np.array([0.9, 0.1, 0.2, 0.6, 0.9]))
    assert {lang: row["auc"] for lang, row in found.items()} == {"en": 1.0, "fr": None, "zh": 0.0}


# --- thresholds ------------------------------------------------------------------------------------------------------


def precision_above(scores: np.ndarray, labels: np.ndarray, threshold: float) -> float:
    above = scores > threshold
    return float(labels[above].mean()) if above.any() else 1.0


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=25),
    st.sampled_from([0.5, 0.8, 0.9, 1.0]),
)
def test_the_threshold_is_the_loosest_that_is_precise_enough(samples, precision):
    scores, labels = np.array([s for s, _ in samples]) / 10, np.array([y for _, y in samples])
    candidates = [t for t in np.arange(0, 0.95, 0.1) + 0.0001 if (scores > t).any()]
    good = [t for t in candidates if precision_above(scores, labels, t) >= precision - 1e-9]
    if not good:
        with pytest.raises(InputError, match="no threshold is right"):
            choose_threshold(scores, labels, precision)
        return
    chosen = choose_threshold(scores, labels, precision)
    assert precision_above(scores, labels, chosen) >= precision - 1e-9
    assert (scores > chosen).sum() == (scores > good[0]).sum()
    assert chosen == 0 or chosen not in scores  # no sample is decided by its last digit


def test_thresholds_are_chosen_for_each_language_type_and_score_with_labels_enough():
    labels = [label(f"{n}", float(n >= 6)) for n in range(10)] + [label("x", 1, lang="zh")]

    class Scorer:
        name, digest, languages = "fluency", "", frozenset()

        def score(self, texts):
            return np.array([float(t) / 10 for t in texts])

    chosen, facts = thresholds(labels, {"fluency": Scorer()}, ChooseThresholdsConfig(precision=1.0, min_labels=10))
    assert chosen == {"en_web": {"fluency": pytest.approx(0.55)}}
    assert facts["en_web fluency"]["right_above"] == facts["en_web fluency"]["above"] == 4
    assert facts["zh_web fluency"]["chosen"] is False


def test_without_a_scorer_the_rules_of_grade_are_measured_and_other_scores_are_refused():
    assert predict([label("Buy now! " * 9, 0, "not_ad")], "not_ad", {}).tolist() == [0.0]
    with pytest.raises(InputError, match="no scorer of 'toxic'"):
        predict([label("a", 1, "toxic")], "toxic", {})


def test_a_threshold_of_language_and_type_goes_before_one_of_the_type_and_that_before_the_default():
    sets = {"en_web": {"fluency": 0.3}, "any_web": {"fluency": 0.4, "not_ad": 0.5}}
    limits = Limits({"fluency": 0.2, "not_ad": 0.2}, sets)
    assert limits.of("en", "web") == {"fluency": 0.3, "not_ad": 0.5}
    assert limits.of("zh", "web") == {"fluency": 0.4, "not_ad": 0.5}
    assert limits.of("zh", "qa") == {"fluency": 0.2, "not_ad": 0.2}
    with pytest.raises(InputError, match="no score 'flow' here"):
        Limits.load({"fluency": 0.2}, {"en_web": {"flow": 0.3}}, None, None)  # type: ignore[arg-type]
