"""Who holds a training up: each rank leaves a heartbeat in the store, the launcher compares them; `/healthz` for Kubernetes.

A stopped process, or one whose host is gone, leaves no heartbeat. One that hangs leaves them and does not move; the others
then wait for it in a collective, so it is the one that has moved least. No clock is compared with another host's: the launcher
counts from when it saw a heartbeat change. No torch here.
"""

import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson

from tokenmill.errors import StoreError
from tokenmill.manifest import Frozen
from tokenmill.store import ArtifactStore

SLOW = 10
"""Times the limit that a living rank has for what is no part of a step, or may hold drawing answers."""
SLOW_PHASES = frozenset({"start", "load", "evaluation", "export", "data", "end"})


class Beat(Frozen):
    """What a rank says of itself."""

    rank: int
    host: str
    process: int
    step: int
    phase: str
    moves: int
    """Phases begun. Ranks begin the same ones, so the one with the fewest is behind."""
    number: int
    """Of this heartbeat."""
    where: str
    """The line of ours that its main thread is at, if it has not moved since the last heartbeat."""


class Heart:
    """A rank's account of where it is, and the thread that stores it."""

    def __init__(self, store: ArtifactStore, folder: str, rank: int, limit_s: float) -> None:
        self.store, self.key, self.rank, self.limit_s = store, _key(folder, rank), rank, limit_s
        self.step, self.phase, self.moves, self.stepped = 0, "start", 0, time.monotonic()
        self.moved = self.stepped
        self._last, self._number = -1, 0
        self._main = threading.main_thread().ident
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def begin(self, phase: str) -> None:
        """The rank goes on to a phase of its step."""
        self.phase, self.moved, self.moves = phase, time.monotonic(), self.moves + 1

    def end_step(self, step: int) -> None:
        self.step, self.stepped = step, time.monotonic()

    def health(self) -> tuple[bool, dict[str, object]]:
        """Whether the rank moves, and what a person or a probe is told."""
        now = time.monotonic()
        limit = self.limit_s * (SLOW if self.phase in SLOW_PHASES else 1)
        told = {
            "rank": self.rank,
            "step": self.step,
            "phase": self.phase,
            "last_step_age_s": round(now - self.stepped, 3),
            "phase_age_s": round(now - self.moved, 3),
            "limit_s": limit,
        }
        return now - self.moved < limit, told

    def _beat(self) -> None:
        while True:
            beat = Beat(
                rank=self.rank,
                host=socket.gethostname(),
                process=os.getpid(),
                step=self.step,
                phase=self.phase,
                moves=self.moves,
                number=self._number,
                where=self._where() if self.moves == self._last else "",
            )
            self._last, self._number = beat.moves, self._number + 1
            with suppress(StoreError):  # the launcher knows of a store that is away
                self.store.backend.put(self.key, beat.model_dump_json().encode())
            if self._ended.wait(interval_s(self.limit_s)):
                return

    def _where(self) -> str:
        stack = traceback.extract_stack(sys._current_frames().get(self._main or 0))
        ours = [frame for frame in stack if "tokenmill" in frame.filename] or stack
        return f"{ours[-1].filename}:{ours[-1].lineno} in {ours[-1].name}" if ours else ""


@dataclass
class _Seen:
    beat: Beat
    heard: float
    moved: float


class Watchdog:
    """The launcher's view of its ranks."""

    def __init__(
        self, store: ArtifactStore, folder: str, ranks: int, limit_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store, self.folder, self.ranks, self.limit_s, self.clock = store, folder, ranks, limit_s, clock
        self._seen: dict[int, _Seen] = {}
        self._begun = self._looked = clock()
        for rank in range(ranks):  # of ranks that were started before, for the same attempt
            store.backend.delete(_key(folder, rank))

    def look(self) -> str:
        """What to tell of a rank that holds the others up; empty if none does, or it is too early to look again."""
        now = self.clock()
        if now - self._looked < interval_s(self.limit_s) / 2:
            return ""
        self._looked = now
        try:
            for rank in range(self.ranks):
                if self.store.backend.exists(_key(self.folder, rank)):
                    self._hear(Beat.model_validate_json(self.store.backend.get(_key(self.folder, rank))), now)
        except StoreError:  # it is the store that is away: whatever is heard then counts from now
            self._seen = {rank: _Seen(seen.beat, now, now) for rank, seen in self._seen.items()}
            return ""
        return self._judge(now)

    def _hear(self, beat: Beat, now: float) -> None:
        before = self._seen.get(beat.rank)
        if not before:
            self._seen[beat.rank] = _Seen(beat, now, now)
        elif before.beat.number != beat.number:
            moved = now if beat.moves != before.beat.moves else before.moved
            self._seen[beat.rank] = _Seen(beat, now, moved)

    def _judge(self, now: float) -> str:
        missing = sorted(set(range(self.ranks)) - set(self._seen))
        if missing and now - self._begun >= SLOW * self.limit_s:
            return f"{_named(missing, self.ranks)} never began, {now - self._begun:.0f} s after the start"
        seen = sorted(self._seen.values(), key=lambda one: (one.beat.moves, one.beat.rank))
        for one in seen:
            if now - one.heard >= self.limit_s:
                at = f"step {one.beat.step}, in phase {one.beat.phase!r}"
                return (
                    f"{_named([one.beat.rank], self.ranks)} on {one.beat.host} (process {one.beat.process}) has not been "
                    f"heard of for {now - one.heard:.0f} s, last at {at}: it is stopped, or its host is gone"
                )
        if missing or not seen:
            return ""
        behind = [one for one in seen if one.beat.moves == seen[0].beat.moves]
        slowest = min(behind, key=lambda one: one.moved)
        limit = self.limit_s * (SLOW if slowest.beat.phase in SLOW_PHASES else 1)
        if now - slowest.moved < limit:
            return ""
        hosts = ", ".join(sorted({one.beat.host for one in behind}))
        return (
            f"{_named([one.beat.rank for one in behind], self.ranks)} on {hosts} did not move for "
            f"{now - slowest.moved:.0f} s at step {slowest.beat.step}, in phase {slowest.beat.phase!r}"
            + (f", at {slowest.beat.where}" if slowest.beat.where else "")
        )


def interval_s(limit_s: float) -> float:
    """Seconds between heartbeats: several within the limit, and no more of them than tell something."""
    return min(15.0, limit_s / 6)


def serve_health(heart: Heart, port: int) -> ThreadingHTTPServer:
    """`GET /healthz` in a thread: 200 or 503, and JSON. Port 0 takes any; see `server_port`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            healthy, told = heart.health()
            self.send_response((200 if healthy else 503) if self.path == "/healthz" else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(orjson.dumps(told | {"ok": healthy}) if self.path == "/healthz" else b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """A probe every few seconds is no news."""

    server = ThreadingHTTPServer(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="healthz", daemon=True).start()
    return server


def _named(ranks: Sequence[int], of: int) -> str:
    shown = ", ".join(map(str, ranks[:4])) + (" …" if len(ranks) > 4 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown} of {of}"


def _key(folder: str, rank: int) -> str:
    return f"{folder}/beats/{rank}.json"
