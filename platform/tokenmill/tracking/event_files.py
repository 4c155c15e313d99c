"""The files that events lie in: each holds a batch of one task's attempt, and never changes once it is there."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from tokenmill.store import ArtifactStore
from tokenmill.tracking.event_data import Kind


class Event(NamedTuple):
    kind: Kind
    time: float  # seconds since 1970
    task: str
    data: dict[str, Any]


class EventFile(NamedTuple):
    """One stored batch; `sequence` is dense within an attempt, so a reader knows what it has not seen."""

    key: str
    attempt: str
    sequence: int


def list_event_files(store: ArtifactStore, run_key: str, task: str | None = None) -> dict[str, list[EventFile]]:
    """Task → its event files, oldest attempt first."""
    prefix = f"runs/{run_key}/events/" if task is None else events_prefix(run_key, task)
    files: dict[str, list[EventFile]] = {}
    for key in sorted(entry.key for entry in store.backend.list(prefix)):
        task_name, name = key.split("/")[-2:]
        attempt, _, sequence = name.removesuffix(".json").rpartition("-")
        files.setdefault(task_name, []).append(EventFile(key, attempt, int(sequence)))
    return files


def read_event_file(store: ArtifactStore, file: EventFile) -> list[Event]:
    task = file.key.split("/")[-2]
    stored = orjson.loads(store.backend.get(file.key))["events"]
    return [Event(e["kind"], float(e["time"]), task, e["data"]) for e in stored]


def read_events(store: ArtifactStore, run_key: str, task: str | None = None) -> Iterator[Event]:
    """Every event of a run (or of one task), in order of time."""
    yield from EventFollower(store, run_key, task).news()


class EventFollower:
    """The events of a run while it writes them; each file is read once."""

    def __init__(self, store: ArtifactStore, run_key: str, task: str | None = None) -> None:
        self._store, self._run_key, self._task = store, run_key, task
        self._read: set[EventFile] = set()

    def news(self) -> list[Event]:
        """What has been written since the last call, in order of time."""
        files = {f for task in list_event_files(self._store, self._run_key, self._task).values() for f in task}
        events = [event for file in sorted(files - self._read) for event in read_event_file(self._store, file)]
        self._read |= files
        return sorted(events, key=lambda e: e.time)


def events_prefix(run: str, task: str) -> str:
    """What the keys of a task's event files begin with."""
    return f"runs/{run}/events/{task}/"
