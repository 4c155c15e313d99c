"""Rate and batch size by step: the report's numbers (spec §4.1, check 11)."""

import math
from itertools import pairwise

import pytest
from pydantic import ValidationError

from tokenmill.config import resolve
from tokenmill.steps import find
from tokenmill.training.schedule import BatchRamp, batch_tokens, learning_rate, steps_of
from tokenmill.training.settings import OptimConfig, StageConfig

PEAK = 3e-4


def rates(steps, **options):
    optim = OptimConfig(**{"lr": PEAK, "warmup_ratio": 0.0, **options})
    return [learning_rate(optim, step, steps) for step in range(steps)]


def test_the_middle_is_055_of_the_peak_and_the_end_a_tenth():
    found = rates(1001)
    assert found[0] == PEAK
    assert found[500] == pytest.approx(1.65e-4) == pytest.approx(0.55 * PEAK)
    assert found[-1] == pytest.approx(3e-5)
    assert all(a > b for a, b in pairwise(found))


def test_warm_up_rises_evenly_to_the_peak_and_never_starts_at_zero():
    found = rates(1000, warmup_ratio=0.01)
    assert found[:10] == pytest.approx([PEAK * (i + 1) / 11 for i in range(10)])
    assert found[10] == max(found) == PEAK
    assert found[-1] == pytest.approx(0.1 * PEAK)


def test_a_rate_is_a_function_of_the_step_alone_and_never_below_the_last():
    optim = OptimConfig(lr=PEAK)
    assert learning_rate(optim, 0, 1) > 0
    assert learning_rate(optim, 5000, 100) == pytest.approx(0.1 * PEAK)  # beyond the end
    assert rates(7, final_lr_ratio=0.0)[-1] == pytest.approx(0.0)
    assert set(rates(7, final_lr_ratio=1.0)) == {PEAK}


def test_two_stages_are_one_cosine():
    """Check 11: 1,000 steps, of which 900 are at 4K and 90 at 32K; what follows has a schedule of its own."""
    whole = rates(990, warmup_ratio=0.01)
    short = rates(900, warmup_ratio=0.01, steps_after=90)
    long = rates(90, warmup_ratio=0.01, steps_before=900)
    assert short + long == pytest.approx(whole, rel=1e-12)
    assert whole[10 + 979 // 2] == pytest.approx(0.55 * PEAK, rel=2e-3)
    assert long[0] < 0.13 * PEAK and long[-1] == pytest.approx(0.1 * PEAK)  # no second warm-up, no second peak
    for step in (10, 300, 900, 989):  # a second computation
        turned = math.pi * (step - 10) / 979
        assert whole[step] == pytest.approx(PEAK * (0.1 + 0.45 * (1 + math.cos(turned))))


@pytest.mark.parametrize(("preset", "batch"), [("internlm2-1.8b", 4), ("internlm2-7b", 4), ("internlm2-20b", 5)])
def test_the_released_presets_have_one_cosine_over_both_stages(preset, batch):
    short, long = (
        resolve(find(name).config, name, preset, {})
        for name in ("pretraining.pretrain.short", "pretraining.pretrain.long")
    )
    steps = [stage.tokens // stage.batch_tokens for stage in (short, long)]
    assert short.batch_tokens == batch * 2**20
    assert (short.optim.steps_after, long.optim.steps_before) == (steps[1], steps[0])
    last, first = learning_rate(short.optim, steps[0] - 1, steps[0]), learning_rate(long.optim, 0, steps[1])
    assert first == pytest.approx(last, rel=1e-4) and first <= last
    assert learning_rate(short.optim, 0, steps[0]) < PEAK / 1000  # warm-up is the short stage's
    assert learning_rate(long.optim, steps[1] - 1, steps[1]) == pytest.approx(0.1 * PEAK)


@pytest.mark.parametrize("preset", ["internlm2-1.8b", "internlm2-7b", "internlm2-20b"])
def test_the_released_presets_are_the_reports_three_stages(preset):
    """Spec §4.1, §4.2, check 11; the third stage's rate and batch are lower than the second's, its schedule its own."""
    names = "pretraining.pretrain.short", "pretraining.pretrain.long", "enhancement.enhance"
    short, long, third = stages = [resolve(find(name).config, name, preset, {}) for name in names]
    tokens = [stage.tokens for stage in stages]
    assert [count / sum(tokens) for count in tokens] == pytest.approx([0.90, 0.09, 0.01], abs=0.005)
    assert (short.context, long.context) == (4096, 32_768)
    assert (short.short_context, long.short_context) == (0, 4096)  # half of the tokens, see test_stage
    assert (short.rope_theta, long.rope_theta) == (50_000, 1_000_000)
    assert third.tokens == 24_400_000_000 and third.batch_tokens < long.batch_tokens
    assert third.optim.lr < PEAK and third.optim.lr <= learning_rate(long.optim, 10**9, 1) * (1 + 1e-9)
    for stage in (short, long):
        fields = stage.optim.model_dump()
        assert (fields["lr"], fields["betas"], fields["eps"]) == (3e-4, (0.9, 0.95), 1e-8)
        assert (fields["weight_decay"], fields["clip"], fields["final_lr_ratio"]) == (0.1, 1.0, 0.1)


def test_batches_grow_evenly_and_then_stay():
    ramp = BatchRamp(full=4096, first=1024, steps=6)
    assert [batch_tokens(ramp, step) for step in range(9)] == [1024, 1536, 2048, 2560, 3072, 3584, 4096, 4096, 4096]
    assert {batch_tokens(BatchRamp(full=4096), step) for step in (0, 1, 10**6)} == {4096}


@pytest.mark.parametrize("ramp", [BatchRamp(4096), BatchRamp(4096, 1024, 6), BatchRamp(100, 7, 13)])
def test_as_many_steps_as_the_budget_holds(ramp):
    for tokens in (1, 1023, 5000, 13_824, 13_825, 17_919, 17_920, 10**6):
        steps = steps_of(ramp, tokens)
        taken = sum(batch_tokens(ramp, step) for step in range(steps))
        assert taken <= tokens or steps == 1
        assert taken + batch_tokens(ramp, steps) > tokens


def test_a_ramp_above_the_batch_is_refused():
    with pytest.raises(ValidationError, match="ramp_tokens"):
        StageConfig(batch_tokens=4096, ramp_tokens=8192, ramp_steps=3)
    with pytest.raises(ValidationError, match="ramp_tokens"):
        StageConfig(batch_tokens=4096, ramp_steps=3)


def test_kept_weights_of_a_training_whose_weights_are_nowhere_whole_are_refused_before_it_begins():
    with pytest.raises(ValidationError, match="with kept > 0 set execution.zero_stage to 2 or less"):
        StageConfig(kept=4, execution={"zero_stage": 3})
    assert StageConfig(kept=0, execution={"zero_stage": 3}).kept == 0
    assert StageConfig(kept=4, execution={"zero_stage": 2}).kept == 4
