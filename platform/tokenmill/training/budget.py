"""What a training spends, in device time, money and energy, and the budgets that stop it."""

from dataclasses import dataclass
from enum import IntEnum

from tokenmill.training.flops import Accelerator
from tokenmill.training.settings import BudgetConfig

JOULES_A_KWH = 3.6e6


class Stop(IntEnum):
    """Why a training ends before its last step. Where ranks differ, the highest counts."""

    NONE = 0
    MFU = 1
    COST = 2
    SIGTERM = 3


@dataclass
class Meter:
    """Rank 0's account of a training, over all its devices.

    It goes on from a checkpoint's `device_s`: what an attempt did after its last checkpoint, and the time between
    attempts, are not in it.
    """

    budget: BudgetConfig
    devices: int
    accelerator: Accelerator | None = None
    device_s: float = 0.0
    """Seconds of one device."""
    slow_s: float = 0.0
    """Seconds that the MFU has been below the budget's, up to now."""

    def count(self, seconds: float, mfu: float | None) -> Stop:
        """Count a step, and judge."""
        self.device_s += seconds * self.devices
        self.slow_s = self.slow_s + seconds if mfu is not None and mfu < self.budget.mfu_below else 0.0
        return self.judge()

    def judge(self) -> Stop:
        """The budget that is used up, if one is."""
        if self.cost is not None and self.budget.cost is not None and self.cost >= self.budget.cost:
            return Stop.COST
        return Stop.MFU if self.slow_s > self.budget.mfu_minutes * 60 else Stop.NONE

    @property
    def cost(self) -> float | None:
        """In the currency of the configured price; None without one."""
        price = self.budget.price_per_hour
        return None if price is None else self.device_s / 3600 * price

    def values(self) -> dict[str, float]:
        """As metrics: device hours; with a price cost, and its share of a budget; energy where a device's power is known."""
        told = {"spent/device_hours": self.device_s / 3600}
        if self.cost is not None:
            told["spent/cost"] = self.cost
            if self.budget.cost is not None:
                told["spent/budget_ratio"] = self.cost / self.budget.cost
        if watts := self.budget.watts or (self.accelerator.watts if self.accelerator else None):
            told["spent/kwh"] = self.device_s * watts / JOULES_A_KWH
        return told

    def why(self, stop: Stop) -> str:
        """What a person is told of a budget that is used up."""
        if stop == Stop.COST:
            return f"its budget of {self.budget.cost:g} is spent ({self.cost:.4g}); raise execution.budget.cost"
        return (
            f"its MFU was below {self.budget.mfu_below:g} for more than {self.budget.mfu_minutes:g} minutes; see the "
            "split of a step's time (perf/step/…), or lower execution.budget.mfu_below"
        )
