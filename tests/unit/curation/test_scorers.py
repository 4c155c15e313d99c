"""Scorers. Oracles: an independent optimum (scipy), pair counting for the AUC, shuffled labels as negative control."""

import dataclasses
import itertools
import math
import random

import numpy as np
import orjson
import pytest

from tokenmill.curation.labels import Label, built_in, composite, label_value, merge, parse
from tokenmill.curation.linear_scorer import LinearScorer, features
from tokenmill.curation.load_scorer import load_scorer
from tokenmill.curation.score import passes, refuse_rivals, scored
from tokenmill.curation.scorer import orientation, score_by_windows, windows
from tokenmill.curation.scorer_config import TrainScorerConfig
from tokenmill.curation.train_scorer import auc, evaluate, fit, logistic_regression, split
from tokenmill.errors import InputError

SCORES = ("toxic", "porn", "fluency", "not_ad")


def trained(score: str, labels=None) -> tuple[LinearScorer, dict]:
    train, heldout = split(built_in(score) if labels is None else labels, 0.2)
    scorer = fit(TrainScorerConfig(score=score), train)
    return scorer, evaluate(scorer, heldout)


@pytest.mark.parametrize("score", SCORES)
def test_the_default_scorer_tells_unseen_labels_apart_and_shuffled_labels_teach_it_nothing(score):
    _, measured = trained(score)
    assert measured["all"]["auc"] > 0.85 and min(measured[lang]["auc"] for lang in ("en", "zh")) > 0.75
    values = [label.value for label in built_in(score)]
    areas = []
    for seed in range(3):
        random.Random(seed).shuffle(values)
        control = [Label(b.score, b.lang, b.type, b.text, v) for b, v in zip(built_in(score), values, strict=True)]
        areas.append(trained(score, control)[1]["all"]["auc"])
    assert 0.25 < np.mean(areas) < 0.72


def test_training_is_deterministic_whatever_the_order_of_the_labels_and_survives_saving(tmp_path):
    labels = built_in("toxic")
    one, _ = trained("toxic", labels)
    other, _ = trained("toxic", labels[::-1])
    assert np.array_equal(one.weights, other.weights) and one.bias == other.bias
    one.save(tmp_path / "a")
    other.save(tmp_path / "b")
    for name in ("scorer.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    again = load_scorer(tmp_path / "a")
    texts = ["You stupid idiot, shut up.", "The bread is in the oven.", ""]
    assert np.array_equal(again.score(texts), one.score(texts))
    assert again.score(texts)[0] > 0.5 > again.score(texts)[1]
    assert again.languages == {"en", "zh"} and again.digest == load_scorer(tmp_path / "b").digest
    card = orjson.loads((tmp_path / "b" / "scorer.json").read_bytes())
    (tmp_path / "b" / "scorer.json").write_bytes(orjson.dumps(card | {"bias": card["bias"] + 0.1}))
    assert load_scorer(tmp_path / "b").digest != again.digest


def test_a_folder_without_a_known_scorer_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"scorer\.json is missing"):
        load_scorer(tmp_path)
    (tmp_path / "scorer.json").write_text('{"kind": "magic"}')
    with pytest.raises(InputError, match="unknown kind of scorer 'magic'"):
        load_scorer(tmp_path)


def test_the_optimum_is_that_of_another_solver():
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(1)
    rows = [np.sort(rng.choice(64, size=rng.integers(1, 12), replace=False)) for _ in range(40)]
    value, weight = rng.random(40), np.full(40, 1 / 40)
    design = np.zeros((40, 65))
    for i, row in enumerate(rows):
        design[i, row] = len(row) ** -0.5
    design[:, 64] = 1  # the bias, without decay

    def loss(w):
        z = design @ w
        return float(weight @ (np.logaddexp(0, z) - value * z) + 0.005 * w[:64] @ w[:64])

    best = optimize.minimize(loss, np.zeros(65), method="BFGS", options={"gtol": 1e-8}).x
    weights, bias = logistic_regression(rows, value, weight, 64, 0.01, 5000, 1e-10)
    assert np.allclose(weights, best[:64], atol=1e-4) and bias == pytest.approx(best[64], abs=1e-4)


def test_a_score_is_the_logistic_function_of_the_mean_of_the_weights_that_a_text_has():
    scorer, _ = trained("porn")
    text = "Bread needs flour, water, salt and time. 面包需要时间。"
    (columns,) = features([text], len(scorer.weights))
    total = sum(float(scorer.weights[c]) for c in columns)
    assert scorer.score([text])[0] == pytest.approx(1 / (1 + math.exp(-scorer.bias - total / math.sqrt(len(columns)))))


def test_features_are_the_same_for_another_case_and_white_space_and_each_once():
    one, same, other = features(["Big  Bad\nwolf 在线", "big bad wolf 在线", "big bad wolves"], 1 << 18)
    assert np.array_equal(np.sort(one), np.sort(same))
    assert len(set(one.tolist())) == len(one)
    grams = {
        g for n in range(1, 5) for g in map("".join, zip(*(" big bad wolf 在线 "[i:] for i in range(n)), strict=False))
    }
    pairs = {"^big", "big bad", "bad wolf"}  # word pairs, the first word with none before it
    assert len(one) == pytest.approx(len(grams) + 3 + len(pairs), abs=1)  # at most one collision
    assert set(one.tolist()) != set(other.tolist())


def test_the_split_gives_every_language_and_kind_its_share_and_hangs_on_the_text_only():
    labels = built_in("porn")
    train, heldout = split(labels, 0.25)
    assert not {b.text for b in train} & {b.text for b in heldout} and len(train) + len(heldout) == len(labels)
    for lang, positive in itertools.product(("en", "zh"), (True, False)):
        mine = [b for b in labels if (b.lang, b.positive) == (lang, positive)]
        assert sum((b.lang, b.positive) == (lang, positive) for b in heldout) == round(0.25 * len(mine))
    assert split(labels[::-1], 0.25) == (train, heldout)


def test_auc_is_the_share_of_rightly_ordered_pairs():
    rng = np.random.default_rng(2)
    scores, positive = rng.integers(0, 6, 60) / 5, rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert auc(scores, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(scores, np.ones(60, bool)))


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "x" * 1500, "One. " * 400, "一句话。" * 400, "line\n" * 300, "a" * 599 + " b"])
def test_windows_hold_the_whole_text_in_pieces_of_limited_length(text):
    pieces = windows(text, 600)
    assert "".join(pieces) == text and all(len(piece) <= 600 for piece in pieces)


def test_windows_are_cut_between_sentences_where_there_are_some():
    assert all(piece.rstrip().endswith(".") for piece in windows("Some words stand here. " * 100, 600))


@pytest.mark.parametrize("length", [601, 700, 899, 1205, 5000])
def test_no_window_of_a_long_text_is_too_short_to_be_scored_on(length):
    for text in ("x" * length, ("A short one. " * 400)[:length], "\n".join("y" * 70 for _ in range(90))[:length]):
        assert min(map(len, windows(text, 600))) >= 150


@pytest.mark.parametrize(("score", "expected"), [("toxic", 0.9), ("porn", 0.9), ("not_ad", 0.1), ("fluency", 0.4)])
def test_the_worst_window_decides_but_of_fluency_the_mean(score, expected):
    given = iter([0.1, 0.2, 0.9, 0.5])
    text = " ".join("w" * 9 for _ in range(3))
    (values,) = score_by_windows([score], [text, "last"], lambda pieces: np.array([[next(given)] for _ in pieces]), 11)
    assert values.tolist() == pytest.approx([expected, 0.5])
    assert orientation(score) == ("worse" if score in ("toxic", "porn") else "better")


# --- labels ----------------------------------------------------------------------------------------------------------


def test_labels_are_read_with_their_place_and_unlabelled_rows_left_out():
    rows = [
        {"text": "a", "score": "toxic", "label": True, "lang": "en"},
        {"text": "b", "score": "toxic", "label": None},
        {"text": "c", "score": "fluency", "lang": "zh", "type": "qa",
         "label": {"consistency": 1, "noise": 0.5, "information": 0, "grammar": 1}},
    ]  # fmt: skip
    assert parse([orjson.dumps(row) for row in rows], "f") == [
        Label("toxic", "en", "web", "a", 1.0),
        Label("fluency", "zh", "qa", "c", 0.625),
    ]
    for row, what in (("{", "not JSON"), ('{"label": 1}', "needs a `text`"), ('{"text": "a", "label": 1}', "`score` is None"),
                      ('{"text": "a", "score": "toxic", "label": 2}', "label 2")):  # fmt: skip
        with pytest.raises(InputError, match=f"f line 1: .*{what}"):
            parse([row.encode()], "f")
    with pytest.raises(InputError, match="fluency needs"):
        label_value({"noise": 1}, "x")
    assert composite(dict.fromkeys(("consistency", "noise", "information", "grammar"), 1)) == 1


def test_of_two_labels_of_one_text_the_later_holds_and_a_change_of_mind_is_told():
    early, late = Label("toxic", "en", "web", "a", 1.0), Label("toxic", "en", "web", "a", 0.0)
    other = Label("porn", "en", "web", "a", 1.0)
    assert merge([early, other], [late]) == ([other, late], [late])
    assert merge([early], [Label("toxic", "en", "web", "a", 0.8)])[1] == []


@pytest.mark.parametrize("score", SCORES)
def test_built_in_labels_are_of_both_kinds_in_both_languages_and_say_nothing_twice(score):
    labels = built_in(score)
    for lang, positive in itertools.product(("en", "zh"), (True, False)):
        assert sum((b.lang, b.positive) == (lang, positive) for b in labels) >= 20
    assert len({b.text for b in labels}) == len(labels) and all(b.score == score for b in labels)


# --- scoring ---------------------------------------------------------------------------------------------------------


class Fixed:
    def __init__(self, name, value, *languages):
        self.name, self.value, self.languages, self.digest = name, value, frozenset(languages), "d"

    def score(self, texts):
        return np.full(len(texts), self.value)


def test_scores_join_those_of_the_record_for_scored_types_and_known_languages_only():
    rows = [
        {"id": f"{n}", "text": "t", "type": ("web", "book")[n % 2], "lang": ("en", "zh")[n // 2 % 2], "scores": {"fluency": 0.5}}
        for n in range(1000)
    ]  # fmt: skip
    out = list(scored(iter(rows), passes([Fixed("toxic", 0.123456, "en"), Fixed("porn", 1)]), ["web"]))
    assert [r["id"] for r in out] == [r["id"] for r in rows]
    for row in out:
        expected = {"fluency": 0.5}
        if row["type"] == "web":
            expected |= {"porn": 1.0} | ({"toxic": 0.1235} if row["lang"] == "en" else {})
        assert row["scores"] == expected
    assert all(row["scores"] == {"fluency": 0.5} for row in rows)


def test_scorers_that_read_together_give_what_each_gives_by_itself():
    toxic, porn, not_ad = (trained(name)[0] for name in ("toxic", "porn", "not_ad"))
    english = dataclasses.replace(not_ad, languages=frozenset({"en"}))
    small = dataclasses.replace(porn, name="fluency", weights=porn.weights[: 1 << 12])
    texts = [label.text * times for times, label in enumerate(built_in("toxic"), 1)][:40]
    rows = [{"text": t, "type": "web", "lang": ("en", "zh")[n % 2], "scores": {}} for n, t in enumerate(texts)]
    scorers = (toxic, porn, english, small, Fixed("code_quality", 0.25))
    assert [one.names for one in passes(scorers)] == [("code_quality",), ("toxic", "porn"), ("not_ad",), ("fluency",)]
    alone = {scorer.name: scorer.score(texts).round(4).tolist() for scorer in scorers}
    for n, row in enumerate(scored(iter(rows), passes(scorers), ["web"])):
        known = [name for name in alone if name != "not_ad" or row["lang"] == "en"]
        assert row["scores"] == {name: alone[name][n] for name in known}


def test_two_scorers_of_one_score_share_it_by_language_only():
    refuse_rivals([Fixed("toxic", 1, "en"), Fixed("toxic", 1, "zh"), Fixed("porn", 1)])
    for rival in (Fixed("toxic", 0, "en", "zh"), Fixed("toxic", 0)):
        with pytest.raises(InputError, match="two scorers give the score 'toxic'"):
            refuse_rivals([Fixed("toxic", 1, "en"), rival])
