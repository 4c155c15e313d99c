"""GAE against the numbers of spec §7.4 and against its definition as a sum."""

import pytest
import torch

from tokenmill.rlhf.advantage import gae


@pytest.mark.parametrize(("lam", "expected"), [(0.99, [0.885070, 0.793, 0.7]), (0.95, [0.826750, 0.765, 0.7])])
def test_advantages_are_the_specs(lam, expected):
    advantages = gae(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.1, 0.2, 0.3]), gamma=1.0, lam=lam)
    assert advantages.tolist() == pytest.approx(expected, abs=1e-5)


def test_advantages_are_the_discounted_sum_of_errors():
    torch.manual_seed(0)
    rewards, values = torch.randn(9), torch.randn(9)
    gamma, lam = 0.9, 0.8
    errors = [rewards[t] + (gamma * values[t + 1] if t < 8 else 0) - values[t] for t in range(9)]
    expected = [sum((gamma * lam) ** (k - t) * float(errors[k]) for k in range(t, 9)) for t in range(9)]
    assert gae(rewards, values, gamma, lam).tolist() == pytest.approx(expected, abs=1e-5)


def test_nothing_is_normalised():
    rewards = torch.tensor([0.0, 0.0, 4.0])
    assert gae(rewards, torch.zeros(3), 1.0, 1.0).tolist() == [4.0, 4.0, 4.0]
