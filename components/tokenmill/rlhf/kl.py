"""What a nat of KL against the reference costs: a fixed coefficient (report §4.2.3), or one that steers to a target."""

from collections.abc import Mapping
from typing import Any

_MOST = 0.2
"""Relative distance from the target beyond which the coefficient moves no faster (Ziegler et al. 2019, §2.2)."""


class KLCoefficient:
    """The coefficient β; with a `target` it grows while answers stray further than that, and shrinks while they do not.

    β ← β · (1 + gain · clip(KL / target − 1, −0.2, 0.2)) after every iteration (Ziegler et al. 2019, "Fine-Tuning Language
    Models from Human Preferences", §2.2, whose gain is 0.1).

    Args:
        value: at the start; rewards a nat.
        target: nats an answer; None: β stays.
    """

    def __init__(self, value: float, target: float | None, gain: float) -> None:
        self.value, self.target, self.gain = value, target, gain

    def update(self, kl: float) -> None:
        """After an iteration whose answers had `kl` nats on average."""
        if self.target is not None:
            self.value *= 1 + self.gain * max(-_MOST, min(kl / self.target - 1, _MOST))

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value = float(state["value"])
