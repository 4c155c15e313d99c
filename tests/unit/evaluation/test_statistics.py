"""Intervals against their textbook values."""

import math

import numpy
import pytest

from tokenmill.evaluation.evaluate import deltas, summary
from tokenmill.evaluation.statistics import Bootstrap


def test_interval_of_a_proportion_is_the_normal_one() -> None:
    scores = [1.0] * 60 + [0.0] * 40
    interval = Bootstrap(resamples=4_000).mean(scores)
    half = 1.96 * math.sqrt(0.6 * 0.4 / 100)
    assert interval.value == 0.6
    assert abs(interval.low - (0.6 - half)) < 0.015
    assert abs(interval.high - (0.6 + half)) < 0.015


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    draw = numpy.random.default_rng(5)
    held = 0
    for seed in range(200):
        interval = Bootstrap(resamples=200, confidence=0.9, seed=seed).mean(list(draw.normal(3.0, 1.0, 60)))
        held += interval.low <= 3.0 <= interval.high
    assert 0.83 < held / 200 < 0.96


def test_weighted_mean_is_a_loss_a_token_not_a_document() -> None:
    predictions = [{"loss": 10.0, "tokens": 10, "bytes": 50}, {"loss": 90.0, "tokens": 30, "bytes": 75}]
    found = summary("perplexity", predictions, Bootstrap(resamples=100))
    assert math.isclose(found["value"], math.exp(100 / 40), rel_tol=1e-6)
    assert found["tokens"] == 40
    assert math.isclose(2 ** (125 * found["bits_per_byte"]), math.exp(100), rel_tol=1e-4)
    nothing_read = [one | {"bytes": 0} for one in predictions]
    assert summary("perplexity", nothing_read, Bootstrap(resamples=100))["bits_per_byte"] is None


def test_standard_error_of_the_mean() -> None:
    values = numpy.random.default_rng(1).normal(0, 2, 400)
    textbook = values.std() / math.sqrt(400)
    assert math.isclose(Bootstrap(resamples=4_000).standard_error(list(values)), textbook, rel_tol=0.05)


def test_same_seed_same_interval() -> None:
    values = list(numpy.random.default_rng(1).normal(0, 2, 40))
    assert Bootstrap(seed=1).mean(values) == Bootstrap(seed=1).mean(values) != Bootstrap(seed=2).mean(values)


def test_deltas_have_the_signs_of_the_report() -> None:
    """Report Table 20, Qwen-14B: L(test) 1.15, L(train) .50, L(ref) 1.27 → Δ1 −.12, Δ2 .65."""
    rows = [
        {"split": s, "loss": x + d}
        for s, x in (("test", 1.15), ("train", 0.50), ("reference", 1.27))
        for d in (-0.1, 0.1)
    ]
    found = deltas(rows, Bootstrap(resamples=200))
    assert math.isclose(found["delta1"]["value"], -0.12, abs_tol=1e-6)
    assert math.isclose(found["delta2"]["value"], 0.65, abs_tol=1e-6)
    assert found["delta1"]["se"] > 0


def test_without_a_reference_there_is_no_delta1() -> None:
    found = deltas([{"split": s, "loss": 1.0} for s in ("test", "train")], Bootstrap())
    assert "delta1" not in found and "delta2" in found


@pytest.mark.parametrize("losses", [(800.0, 900.0), (1.0, 1500.0), (float("nan"), 1.0)])
def test_a_diverged_model_has_no_perplexity_and_its_loss_is_still_told(losses):
    predictions = [{"loss": loss * 10, "tokens": 10, "bytes": 40} for loss in losses]
    found = summary("perplexity", predictions, Bootstrap(resamples=100))
    assert (found["value"], found["ci_low"], found["ci_high"], found["n"]) == (None, None, None, 2)
    assert found["loss"] == pytest.approx(sum(losses) / 2, nan_ok=True)
