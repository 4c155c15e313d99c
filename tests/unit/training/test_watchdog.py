"""Which rank is named when a training stands still, and what a probe is told."""

import json
import urllib.error
import urllib.request

import pytest

from tokenmill.errors import StoreError
from tokenmill.store import open_store
from tokenmill.training.settings import TrainingExecution
from tokenmill.training.watchdog import Beat, Heart, Watchdog, interval_s, serve_health

LIMIT = 6.0


class World:
    """Ranks whose heartbeats a test writes, and a launcher whose clock it turns."""

    def __init__(self, tmp_path, ranks=3, limit=LIMIT):
        self.store, self.now = open_store(tmp_path.as_uri()), 0.0
        self.watchdog = Watchdog(self.store, "work/key/1", ranks, limit, clock=lambda: self.now)
        self.numbers = dict.fromkeys(range(ranks), 0)

    def beat(self, rank, moves, phase="forward"):
        self.numbers[rank] += 1
        beat = Beat(
            rank=rank, host=f"node-{rank}", process=100 + rank, step=7, phase=phase, moves=moves,
            number=self.numbers[rank], where="data.py:63 in at",
        )  # fmt: skip
        self.store.backend.put(f"work/key/1/beats/{rank}.json", beat.model_dump_json().encode())

    def look_after(self, seconds):
        self.now += seconds
        return self.watchdog.look()


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_ranks_that_move_are_left_alone(world):
    for moves in range(20):
        for rank in range(3):
            world.beat(rank, moves)
        assert world.look_after(5) == ""


def test_one_that_is_stopped_is_named_though_the_others_stand_still_too(world):
    for second in range(7):
        for rank in (0, 2):
            world.beat(rank, 41)
        if second == 0:
            world.beat(1, 41, phase="data")
        told = world.look_after(1)
    assert told.startswith(
        "rank 1 of 3 on node-1 (process 101) has not been heard of for 6 s, last at step 7, in phase 'data'"
    )


@pytest.mark.parametrize("later", [0.25, 2, 3.5])
def test_as_it_comes_a_stopped_rank_is_named_within_a_minute(tmp_path, later):
    """Whenever the launcher looks: it hears of a heartbeat late, and of its lack too."""
    limit = TrainingExecution().stuck_after_s
    world, told = World(tmp_path, ranks=2, limit=limit), ""
    world.now = later
    stopped_at = 4 * interval_s(limit)  # right after a heartbeat
    for quarter in range(1000):
        if quarter / 4 % interval_s(limit) == 0:
            world.beat(0, quarter)
            if quarter / 4 <= stopped_at:
                world.beat(1, quarter)
        if told := world.look_after(0.25):
            break
    assert told.startswith("rank 1 of 2 on node-1 (process 101) has not been heard of")
    assert limit <= quarter / 4 - stopped_at <= 60


def test_one_that_hangs_is_the_one_that_has_moved_least(world):
    for _ in range(8):
        world.beat(0, 43, "backward"), world.beat(1, 42), world.beat(2, 43, "backward")
        told = world.look_after(1)
    assert told.startswith("rank 1 of 3 on node-1 did not move for ")
    assert told.endswith("at step 7, in phase 'forward', at data.py:63 in at")


def test_one_in_a_slow_phase_is_waited_for_longer_and_so_are_those_that_wait_for_it(world):
    for second in range(70):
        world.beat(0, 43, "backward"), world.beat(1, 41, "data"), world.beat(2, 43, "backward")
        told = world.look_after(1)
        if told:
            break
    assert 58 <= second <= 62 and told.startswith("rank 1 of 3")


def test_all_in_one_collective_are_named_together(world):
    for _ in range(8):
        for rank in range(3):
            world.beat(rank, 43, "backward")
        told = world.look_after(1)
    assert told.startswith("ranks 0, 1, 2 of 3 on node-0, node-1, node-2 did not move for")


def test_one_that_never_began_is_named(world):
    for _ in range(62):
        world.beat(0, 1, "load"), world.beat(1, 1, "load")
        told = world.look_after(1)
    assert told.startswith("rank 2 of 3 never began")


def test_a_store_that_is_away_is_nobodys_fault(world, monkeypatch):
    for rank in range(3):
        world.beat(rank, 1)
    world.look_after(1)

    def away(key):
        raise StoreError("away")

    with monkeypatch.context() as patched:
        patched.setattr(world.store.backend, "get", away)
        assert world.look_after(100) == ""
    assert world.look_after(3) == ""


def test_a_new_start_is_not_judged_by_heartbeats_of_the_one_before(tmp_path):
    World(tmp_path).beat(2, 99)
    assert not list(World(tmp_path).store.backend.list("work/key/1/beats/"))


def ask(server, path="/healthz"):
    try:
        with urllib.request.urlopen(f"http://localhost:{server.server_port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_healthz_says_how_old_the_last_step_is_and_fails_beyond_the_limit(tmp_path):
    heart = Heart(open_store(tmp_path.as_uri()), "work/key/1", rank=0, limit_s=LIMIT)
    server = serve_health(heart, 0)
    heart.end_step(12), heart.begin("forward")
    status, told = ask(server)
    assert status == 200 and told["ok"] and told["step"] == 12 and 0 <= told["last_step_age_s"] < 5
    heart.moved -= 7
    heart.stepped -= 9
    status, told = ask(server)
    assert status == 503 and not told["ok"] and told["phase"] == "forward"
    assert told["last_step_age_s"] >= 9 and told["phase_age_s"] >= 7 and told["limit_s"] == LIMIT
    heart.begin("evaluation")
    heart.moved -= 7
    assert ask(server)[0] == 200
    assert ask(server, "/else")[0] == 404
    server.shutdown()


def test_a_heart_leaves_beats_and_says_where_it_hangs(tmp_path):
    store = open_store(tmp_path.as_uri())
    heart = Heart(store, "work/key/1", rank=0, limit_s=0.3)
    heart.start(), heart.begin("forward")
    heart._ended.wait(0.4)  # where the main thread is
    beat = Beat.model_validate_json(store.backend.get("work/key/1/beats/0.json"))
    heart.stop()
    assert beat.number > 1 and beat.phase == "forward" and ":" in beat.where
