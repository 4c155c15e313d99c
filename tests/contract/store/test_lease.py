"""One attempt works on a key; the next takes over when it lets go or dies."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from tokenmill.errors import LeaseLost, StoreError
from tokenmill.store import ArtifactStore, Lease, acquire, current_lease, lease, watch_lease

fork = multiprocessing.get_context("fork")
KEY = "c0ffee" * 10
TTL_S = 1.0


def hold(store: ArtifactStore, **options: float) -> Lease:
    held = acquire(store, KEY, ttl_s=TTL_S, **options)  # type: ignore[arg-type]
    assert held is not None
    return held


def silence(held: Lease) -> None:
    """Stop the heartbeat, as when a process hangs or its network is gone."""
    held._stop.set()
    held._thread.join()


def test_a_second_caller_waits_until_the_first_lets_go(store: ArtifactStore) -> None:
    waited_for: list[str] = []
    with hold(store) as first:
        first.check()
        started = time.monotonic()
        threading.Timer(TTL_S / 2, first.release).start()
        second = acquire(store, KEY, ttl_s=TTL_S, on_wait=lambda record: waited_for.append(record.holder))
        assert time.monotonic() - started < TTL_S * 1.5, "a released lease is not waited for until it expires"
    assert second is not None
    with second:
        assert waited_for == [first.holder]
        assert (first.attempt, second.attempt) == ("000001", "000002")
        second.check()


def test_a_caller_does_not_wait_for_work_that_is_done(store: ArtifactStore) -> None:
    with hold(store):
        answers = iter([False, False, True])
        assert acquire(store, KEY, done=lambda: next(answers)) is None
    answers = iter([False, True])  # done between looking and taking
    assert acquire(store, KEY, done=lambda: next(answers)) is None
    with hold(store, timeout_s=0.5):
        pass


def test_a_live_holder_keeps_its_lease_whatever_the_clocks_say(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold(store) as held:
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 365 * 86_400)
        with pytest.raises(StoreError, match=f"process {os.getpid()}"):
            acquire(store, KEY, ttl_s=0.1, timeout_s=TTL_S * 2)
        held.check()


@pytest.mark.parametrize("host", ["this", "another"])
def test_the_lease_of_a_killed_process_is_taken_over(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    ready = fork.Event()

    def work() -> None:
        if host == "another":
            monkeypatch.setattr(lease, "_place", lambda: "another host")
        hold(store)
        ready.set()
        time.sleep(60)

    process = fork.Process(target=work)
    process.start()
    assert ready.wait(20)
    with pytest.raises(StoreError):
        hold(store, timeout_s=TTL_S * 1.5)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    started = time.monotonic()
    with hold(store, timeout_s=20) as second:
        took_s = time.monotonic() - started
        assert took_s < TTL_S if host == "this" else TTL_S <= took_s < TTL_S * 4
        second.check()
        assert [entry.key for entry in store.backend.list("work/")] == [f"work/{KEY}/lease/000002"]


def test_a_holder_that_was_silent_too_long_learns_that_it_lost(store: ArtifactStore) -> None:
    first = hold(store)
    watcher = watch_lease(store, KEY, first.attempt)
    silence(first)
    with hold(store, timeout_s=20) as second:
        for loser in (first, watcher):
            with pytest.raises(LeaseLost, match="000002"):
                loser.check()
        first.release()
        second.check()
        record = current_lease(store, KEY)
        assert record and record.holder == second.holder and not record.released
        with pytest.raises(LeaseLost):
            watch_lease(store, KEY, first.attempt)


def test_the_heartbeat_notices_a_takeover_by_itself(store: ArtifactStore) -> None:
    first = hold(store)
    lease_file = f"work/{KEY}/lease/000002"
    record = current_lease(store, KEY)
    assert record
    store.backend.put(lease_file, record.model_copy(update={"attempt": "000002"}).model_dump_json().encode())
    first._thread.join(TTL_S * 3)
    assert not first._thread.is_alive()
    with pytest.raises(LeaseLost):
        first.check()


def test_of_16_takers_of_a_dead_lease_exactly_one_wins(store: ArtifactStore) -> None:
    silence(hold(store))
    barrier, won, over = fork.Barrier(16), fork.SimpleQueue(), fork.Event()

    def take() -> None:
        barrier.wait(30)
        try:
            with hold(store, timeout_s=TTL_S * 3) as held:
                won.put(held.attempt)
                over.wait(30)
                held.check()
        except StoreError:
            won.put(None)

    processes = [fork.Process(target=take) for _ in range(16)]
    for process in processes:
        process.start()
    results = [won.get() for _ in range(16)]
    over.set()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert [attempt for attempt in results if attempt] == ["000002"]


def test_a_slow_taker_does_not_win_with_a_number_that_was_used_before(store: ArtifactStore) -> None:
    for _ in range(3):
        hold(store).release()
    with hold(store) as held:
        assert held.attempt == "000004"
        record = current_lease(store, KEY)
        assert record
        assert lease._claim(store.backend, KEY, 2, record) is None
        held.check()
        assert [entry.key for entry in store.backend.list("work/")] == [f"work/{KEY}/lease/000004"]


def test_a_holder_works_on_while_the_store_is_away(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known then, and publishing is first-wins anyway: training goes on."""
    first, tried = hold(store), threading.Semaphore(0)

    def away(prefix: str) -> None:
        tried.release()
        raise StoreError("away")

    with monkeypatch.context() as patch:
        patch.setattr(store.backend, "list", away)
        assert all(tried.acquire(timeout=20) for _ in range(4)), "four heartbeats, a lifetime of the lease"
        first.check()
        assert first._thread.is_alive()
    first.release()
    with hold(store, timeout_s=0.5):
        pass
