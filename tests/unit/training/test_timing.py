"""The stopwatch: every second between two laps is some phase's."""

from tokenmill.training import timing
from tokenmill.training.timing import Stopwatch


def test_a_lap_splits_its_time_over_phases(monkeypatch):
    clock = iter([0.0, 1.0, 1.5, 3.5, 4.0, 10.0, 11.0])
    monkeypatch.setattr(timing, "perf_counter", lambda: next(clock))
    watch = Stopwatch()
    for phase in ("data", "forward", "backward", "forward"):
        watch.begin(phase)
    assert watch.lap() == {"data": 1.0, "forward": 0.5 + 0.5, "backward": 2.0}
    watch.begin("data")
    assert watch.lap() == {"forward": 6.0, "data": 1.0}  # what ran when the last lap ended goes on


def test_nothing_has_been_timed_before_the_first_phase():
    assert Stopwatch().lap() == {}
