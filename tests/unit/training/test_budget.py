"""What a training spends, counted by hand, and the budgets that stop it."""

import pytest

from tokenmill.errors import ConfigError
from tokenmill.training.budget import Meter, Stop
from tokenmill.training.flops import ACCELERATORS, accelerator, named
from tokenmill.training.settings import BudgetConfig, TrainingExecution


def meter(**budget):
    return Meter(BudgetConfig(**budget), devices=8, accelerator=accelerator("h100"))


def test_cost_and_energy_are_of_all_devices():
    counted = meter(price_per_hour=2.5)
    assert counted.count(3600, mfu=None) == Stop.NONE
    assert counted.values() == {"spent/device_hours": 8.0, "spent/cost": 20.0, "spent/kwh": pytest.approx(8 * 0.7)}
    assert Meter(BudgetConfig(), devices=1).values() == {"spent/device_hours": 0.0}
    assert Meter(BudgetConfig(watts=100), 1, device_s=36_000).values()["spent/kwh"] == pytest.approx(1.0)


def test_it_stops_at_its_cost_and_after_a_restart_too():
    counted = meter(price_per_hour=2.5, cost=20)
    assert counted.count(3599, mfu=None) == Stop.NONE
    assert counted.count(1, mfu=None) == Stop.COST
    again = meter(price_per_hour=2.5, cost=20)
    again.device_s = counted.device_s
    assert again.judge() == Stop.COST
    assert "execution.budget.cost" in again.why(Stop.COST)


def test_it_stops_where_mfu_stays_low_and_not_where_it_recovers():
    counted = meter(mfu_below=0.3, mfu_minutes=1)
    assert [counted.count(40, mfu) for mfu in (0.2, 0.31, 0.29, 0.1)] == [Stop.NONE, Stop.NONE, Stop.NONE, Stop.MFU]
    assert Meter(BudgetConfig(mfu_minutes=0), 1).count(100, mfu=None) == Stop.NONE  # nothing known, nothing to judge


def test_a_cost_needs_a_price():
    with pytest.raises(ConfigError, match="cost needs price_per_hour"):
        TrainingExecution.at("execution", {"budget": {"cost": 10}})


def test_an_unknown_accelerator_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match="accelerator 'h10' is not known; known are a100, h100"):
        TrainingExecution.at("execution", {"accelerator": "h10"})


def test_cuda_names_find_their_data_sheets():
    assert named("NVIDIA H100 80GB HBM3") == ACCELERATORS["h100"]
    assert named("NVIDIA L40S") == ACCELERATORS["l40s"]
    assert named("NVIDIA GeForce RTX 4090") is None
