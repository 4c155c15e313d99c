"""What counts as an anomaly, and what becomes of it."""

import math
import random

import pytest

from tokenmill.errors import StepFailed
from tokenmill.store import open_store
from tokenmill.training.anomaly import Detector, Incident, Verdict, left_out, read_incidents, record
from tokenmill.training.settings import AnomalyConfig

FINE, SUSPECT, ANOMALY = Verdict


def verdicts(detector, losses, start=0):
    return [detector.look(step, loss, 1.0) for step, loss in enumerate(losses, start)]


@pytest.fixture
def detector():
    """One that knows eight losses with median 2.05 and MAD 0.05: its limit is 2.35."""
    made = Detector(AnomalyConfig(window=8, spike_mads=6, spike_steps=2))
    assert set(verdicts(made, [2.0, 2.1, 2.0, 2.1, 2.0, 2.1, 2.0, 2.1])) == {FINE}
    assert made.limit() == pytest.approx(2.35)
    return made


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_one_at_once_even_at_the_first_step(loss):
    detector = Detector(AnomalyConfig())
    assert detector.look(0, loss, 1.0) is ANOMALY
    assert detector.incident.steps == (0,) and str(loss) in detector.incident.reason


def test_so_is_a_gradient_norm(detector):
    assert detector.look(8, 2.0, math.nan) is ANOMALY
    assert detector.incident.reason == "gradient norm is nan"


def test_a_rise_of_enough_steps_is_one_and_holds_all_of_them(detector):
    assert verdicts(detector, [2.36, 9.0], 8) == [SUSPECT, ANOMALY]
    assert detector.incident.steps == (8, 9)
    assert detector.incident.reason == "loss is 9, above 2.35"


def test_steps_that_lead_to_what_is_not_finite_are_left_out_with_it(detector):
    assert verdicts(detector, [9.0, math.nan], 8) == [SUSPECT, ANOMALY]
    assert detector.incident.steps == (8, 9)


def test_a_shorter_rise_is_noise_and_becomes_part_of_the_window(detector):
    assert verdicts(detector, [2.36, 2.0, 2.36, 2.34], 8) == [SUSPECT, FINE, SUSPECT, FINE]
    assert detector.incident is None
    assert list(detector.losses)[-4:] == [2.36, 2.0, 2.36, 2.34]


def test_half_of_the_window_must_be_known_and_zero_deviations_mean_never():
    assert set(verdicts(Detector(AnomalyConfig(window=8, spike_steps=1)), [2.0, 2.0, 2.0, 99.0])) == {FINE}
    assert set(verdicts(Detector(AnomalyConfig(window=4, spike_mads=0, spike_steps=1)), [2.0] * 9 + [99.0])) == {FINE}


def test_losses_that_hardly_move_do_not_make_every_other_a_spike():
    detector = Detector(AnomalyConfig(window=8, spike_mads=6, spike_steps=1))
    assert set(verdicts(detector, [2.0] * 8 + [2.1, 2.0])) == {FINE}  # below 6% more
    assert verdicts(detector, [2.2]) == [ANOMALY]


def test_a_noisy_falling_curve_has_no_spikes():
    draw = random.Random(1)
    losses = [2 + 8 * 0.99**step + draw.gauss(0, 0.15) for step in range(2000)]
    assert ANOMALY not in verdicts(Detector(AnomalyConfig()), losses)


def test_one_that_goes_on_from_a_checkpoint_judges_as_if_it_had_never_stopped():
    draw = random.Random(2)
    losses = [draw.gauss(3, 0.1) + (4 if step % 31 == 0 else 0) for step in range(300)]
    config = AnomalyConfig(window=16, spike_steps=2)
    whole = Detector(config)
    before = verdicts(whole, losses[:200])
    assert before[-1] is FINE  # where a checkpoint may be taken
    resumed = Detector(config, list(whole.losses))
    assert verdicts(resumed, losses[200:], 200) == verdicts(whole, losses[200:], 200)


def test_incidents_are_kept_until_there_are_too_many(tmp_path):
    store = open_store((tmp_path / "store").as_uri())
    assert read_incidents(store, "key") == []
    told = record(store, "key", Incident(steps=(12,), reason="loss is nan"), most=2)
    assert told == "loss is nan at step 12: going back to the newest checkpoint, to leave out step 12"
    record(store, "key", Incident(steps=(30, 31), reason="loss is 9, above 3"), most=2)
    assert left_out(read_incidents(store, "key")) == {12, 30, 31}
    with pytest.raises(StepFailed) as failed:
        record(store, "key", Incident(steps=(13,), reason="loss is nan"), most=2)
    assert str(failed.value) == (
        "loss is nan at step 13, after rolling back for step 12; steps 30 to 31: lower optim.lr or look at the data of "
        "those steps; execution.max_rollbacks (now 2) allows more of this"
    )
    assert len(read_incidents(store, "key")) == 2
