"""The reward model's losses against the numbers of spec §7.1, and their gradients against differences."""

import math

import pytest
import torch

from tokenmill.errors import CorruptError
from tokenmill.rlhf.reward import barrier_penalty, focal_ranking_loss, pair_loss
from tokenmill.rlhf.scoring import reward_scores

PAIRS = [  # chosen, rejected, plain, focal
    (1.0, 0.0, 0.313262, 0.090632),
    (0.0, 0.0, 0.693147, 0.693147),
    (0.0, 1.0, 1.313262, 1.313262),
    (2.0, -1.0, 0.048587, 0.000437),
    (-1.0, 2.0, 3.048587, 3.048587),
    (0.5, 0.25, 0.575939, 0.441606),
]
BARRIERS = [(0.0, -3.218876), (1.0, -3.178054), (3.0, -2.772589), (4.0, -2.197225), (4.9, 0.010050), (4.99, 2.303586)]


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(("chosen", "rejected", "plain", "focal"), PAIRS)
def test_ranking_loss_is_the_reports(chosen, rejected, plain, focal):
    assert float(focal_ranking_loss(number(chosen), number(rejected), gamma=0.0)) == pytest.approx(plain, abs=1e-5)
    assert float(focal_ranking_loss(number(chosen), number(rejected))) == pytest.approx(focal, abs=1e-5)


@pytest.mark.parametrize(("score", "penalty"), BARRIERS)
def test_barrier_is_the_reports_and_even(score, penalty):
    assert float(barrier_penalty(number(score))) == pytest.approx(penalty, abs=1e-5)
    assert float(barrier_penalty(number(-score))) == pytest.approx(penalty, abs=1e-5)


def test_total_of_a_pair_under_both_readings():
    one, nought = number(1.0), number(0.0)
    assert float(pair_loss(one, nought, reduction="mean")) == pytest.approx(0.026663, abs=1e-5)
    assert float(pair_loss(one, nought, reduction="sum")) == pytest.approx(-0.037306, abs=1e-5)


def test_gradients_match_finite_differences():
    scores = torch.tensor(
        [-6.0, -4.995, -4.0, -0.3, 0.0, 0.7, 3.0, 4.985, 5.5], dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(barrier_penalty, (scores,))
    differences = torch.tensor([-3.0, -0.4, 0.2, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: focal_ranking_loss(d, torch.zeros_like(d)), (differences,))


def test_a_wrongly_ordered_pair_has_the_plain_logistic_gradient():
    chosen = torch.tensor(-0.8, dtype=torch.float64, requires_grad=True)
    focal_ranking_loss(chosen, number(0.4)).backward()
    assert float(chosen.grad) == pytest.approx(-1 / (1 + math.exp(-1.2)), abs=1e-12)  # −σ(r_r − r_c)


def test_a_score_that_escapes_is_pulled_back():
    for escaped in (5.0, 7.0, -40.0):
        score = torch.tensor(escaped, dtype=torch.float64, requires_grad=True)
        barrier_penalty(score).backward()
        assert math.copysign(1, float(score.grad)) == math.copysign(1, escaped)
        assert abs(float(score.grad)) > 50


def test_a_score_that_is_no_number_is_refused(judge):
    with torch.no_grad():
        judge.v_head.weight.fill_(float("nan"))
    with pytest.raises(CorruptError, match="gives 2 of 2 answers no finite score"):
        reward_scores(judge, [[3, 4], [5, 6, 7]])
