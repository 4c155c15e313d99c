"""Generalised advantage estimation (Schulman et al. 2016) as in the report: λ = 0.99, nothing normalised (§4.2.3)."""

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """Advantages of one answer's tokens: Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ·v_{t+1} − v_t; v = 0 after the last."""
    advantages = torch.zeros_like(rewards)
    later, next_value = rewards.new_zeros(()), rewards.new_zeros(())
    for t in reversed(range(len(rewards))):
        later = rewards[t] + gamma * next_value - values[t] + gamma * lam * later
        advantages[t], next_value = later, values[t]
    return advantages
