"""Δ1 and Δ2 by hand, and what so many samples can show."""

import math

import pytest

from tokenmill.evaluation.contamination import deltas

QWEN_14B = (1.15, 0.50, 1.27)
"""Report Table 20: L(test), L(train), L(reference)."""


def around(mean: float, spread: float = 0.2, n: int = 400) -> list[float]:
    """Samples whose mean and deviation are exactly these."""
    half = [mean - spread, mean + spread]
    return half * (n // 2)


def test_the_reports_table_gives_its_deltas_and_flags() -> None:
    found = deltas(*(around(mean) for mean in QWEN_14B))
    assert found.delta1 == pytest.approx(-0.12) and found.delta2 == pytest.approx(0.65)
    assert found.flags == ("delta1", "delta2")


def test_the_error_is_that_of_two_means() -> None:
    found = deltas(around(1.0, 0.2, 400), around(1.0, 0.4, 400), around(1.0, 0.2, 100))
    assert found.delta1_se == pytest.approx(math.hypot(0.2 / 20, 0.2 / 10), rel=0.1)
    assert found.delta2_se == pytest.approx(math.hypot(0.2 / 20, 0.4 / 20), rel=0.1)
    assert found.flags == ()


def test_few_samples_show_nothing_and_say_so() -> None:
    """A Δ1 of -0.3 among 16 samples that spread by one nat: below what they can show."""
    found = deltas(around(1.0, 1.0, 16), [], around(1.3, 1.0, 16))
    assert found.delta2 is None and "delta2" not in found.smallest
    assert found.smallest["delta1"] == pytest.approx(3 * math.hypot(1 / 4, 1 / 4), rel=0.1)
    assert found.flags == ()


def test_a_small_delta_is_no_outlier_however_sure_it_is() -> None:
    assert deltas(around(1.0, 0.001), [], around(1.09, 0.001)).flags == ()
    assert deltas(around(1.0, 0.001), [], around(1.11, 0.001)).flags == ("delta1",)
