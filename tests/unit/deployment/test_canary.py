"""A canary's judgement as tables; its oracle for lost probes is a second computation."""

from itertools import product

import pytest

from tokenmill.deployment.canary import Limits, Probed, Seen, judge, loss_by_chance, p95

FINE = Seen(requests=100, errors=0, ttft_p95=0.4, itl_p95=0.02)
DIGEST = "d" * 64


def probed(candidate=FINE, stable=FINE, stable_right=(True,) * 8, candidate_right=(True,) * 8, digest=DIGEST):
    return Probed(stable, candidate, stable_right, candidate_right, digest)


def failed(checks):
    return [check.name for check in checks if not check.passed]


def test_an_equal_candidate_passes_every_check() -> None:
    checks = judge(probed(), (FINE, FINE), Limits(), DIGEST)
    assert failed(checks) == []
    assert {check.name for check in checks} == {
        *("quality", "digest", "probes: errors", "probes: TTFT p95", "probes: ITL p95"),
        *("traffic: errors", "traffic: TTFT p95", "traffic: ITL p95"),
    }


@pytest.mark.parametrize(
    ("candidate", "found"),
    [
        (Seen(100, 2, 0.4, 0.02), ["probes: errors"]),  # 2% > 0.5% more than stable
        (Seen(1000, 4, 0.4, 0.02), []),
        (Seen(100, 0, 0.6, 0.02), ["probes: TTFT p95"]),  # 1.5 times
        (Seen(100, 0, 0.49, 0.02), []),
        (Seen(100, 0, 0.4, 0.06), []),  # three times, but 0.04 s: below the floor
        (Seen(100, 0, 0.4, 0.09), ["probes: ITL p95"]),
        (Seen(0, 0, None, None), ["probes: errors"]),  # nothing was asked: nothing is known
        (Seen(9, 9, None, None), ["probes: errors"]),
    ],
)
def test_errors_and_latency_beside_stable(candidate: Seen, found: list[str]) -> None:
    assert failed(judge(probed(candidate), None, Limits())) == found


def test_a_failing_stable_does_not_let_a_failing_candidate_pass() -> None:
    ill = Seen(100, 30, 0.4, 0.02)
    assert failed(judge(probed(ill, stable=ill), None, Limits())) == ["probes: errors"]


def test_users_traffic_is_judged_when_there_is_enough_of_it() -> None:
    slow = Seen(200, 0, 2.0, 0.02)
    assert failed(judge(probed(), (FINE, slow), Limits())) == ["traffic: TTFT p95"]
    assert failed(judge(probed(), (FINE, Seen(3, 3, 9.0, 9.0)), Limits())) == []  # three requests say nothing
    assert failed(judge(probed(), (FINE, Seen(3, 3, 9.0, 9.0)), Limits(min_requests=3))) == [
        *("traffic: errors", "traffic: TTFT p95", "traffic: ITL p95"),
    ]


@pytest.mark.parametrize(
    ("stable", "candidate", "limits", "passes"),
    [
        ("11111111", "11111111", Limits(), True),
        ("11111111", "01111111", Limits(), True),  # one lost of one: chance 1/2
        ("11111111", "00001111", Limits(), True),  # four lost: 1/16
        ("11111111", "00000111", Limits(), False),  # five lost: 1/32 < 0.05
        ("00000111", "11111000", Limits(), True),  # three lost, five won
        ("00000000", "00000000", Limits(), True),
        ("00000000", "00000000", Limits(min_quality=0.5), False),
        ("11111111", "00001111", Limits(min_quality=0.5), True),
        ("11111111", "00001111", Limits(significance=0.1), False),
    ],
)
def test_quality_is_lost_when_chance_does_not_explain_it(
    stable: str, candidate: str, limits: Limits, passes: bool
) -> None:
    right = [tuple(mark == "1" for mark in marks) for marks in (stable, candidate)]
    checks = judge(probed(stable_right=right[0], candidate_right=right[1]), None, limits)
    assert ("quality" not in failed(checks)) == passes


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (3, 2), (5, 0), (2, 7)])
def test_the_chance_of_a_loss_by_counting_coins(lost: int, won: int) -> None:
    throws = list(product((0, 1), repeat=lost + won))
    assert loss_by_chance(lost, won) == pytest.approx(sum(sum(throw) >= lost for throw in throws) / len(throws))


@pytest.mark.parametrize("found", [None, "e" * 64])
def test_another_model_than_the_one_that_was_meant_is_refused(found: str | None) -> None:
    assert failed(judge(probed(digest=found), None, Limits(), DIGEST)) == ["digest"]
    assert failed(judge(probed(digest=found), None, Limits())) == []  # a model of the hub has none


@pytest.mark.parametrize(
    ("values", "expected"), [([], None), ([3.0], 3.0), (list(range(1, 101)), 95), (list(range(1, 21)), 19)]
)
def test_p95(values: list[float], expected: float | None) -> None:
    assert p95(values) == expected
