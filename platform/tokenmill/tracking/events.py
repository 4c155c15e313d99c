"""What happened in a run, as small JSON files beside the artifacts.

They lie under `runs/<key>/events/<task>/<attempt>-<sequence>.json`.
A step writes events and never waits for anybody: a thread of its own batches and stores them, and nothing here imports
mlflow (3 s, measured). Delivery to MLflow reads the files later, so tracking may be away for an hour.
"""

import atexit
import math
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import orjson

from tokenmill.errors import EXIT_BAD_INPUT, UserError, exit_code, first_line
from tokenmill.logs import Log
from tokenmill.manifest import Manifest, canonical, sha256
from tokenmill.store import ArtifactStore
from tokenmill.tracking.event_data import (
    Artifact,
    Cache,
    Kind,
    Metrics,
    Model,
    Number,
    Output,
    Params,
    RunClosed,
    RunOpened,
    Status,
    StepFailed,
    StepFinished,
    StepStarted,
)
from tokenmill.tracking.event_files import events_prefix
from tokenmill.tracking.run import NAME, RunRef, run_key

_FIRST_FLUSH_S, _LAST_FLUSH_S = 2.0, 30.0  # a run of weeks must not leave a file every two seconds
_MAX_PENDING = 50_000  # events held while the store is away; beyond it the oldest metrics go


Seen = Callable[[Kind, Mapping[str, Any], float], None]
"""Kind, data and time of an event."""


class EventLog:
    """Appends one task's events; every method returns at once.

    Use it as a context manager, or call `close()`: what is still buffered is written then.
    """

    def __init__(self, store: ArtifactStore, run: RunRef, task: str, seen: Seen | None = None):
        """`seen` is told of every event at once, in the thread that it comes from."""
        if not re.match(NAME, task):
            raise ValueError(f"task name {task!r} cannot be part of a store key")
        self.run, self.task = run, task
        self._store, self._seen = store, seen
        self._log = Log({"run": run.key, "task": task})
        self._attempt = f"{time.time_ns():019d}-{uuid.uuid4().hex[:8]}"
        self._sequence = 0
        self._pending: list[dict[str, Any]] = []
        self._queued = self._written = self._lost = 0
        self._urgent = self._closed = self._given_up = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._opened_at = time.monotonic()
        self._pid = os.getpid()

    # What can happen ------------------------------------------------------------------------------------------------

    def run_opened(self, *, config: Mapping[str, Any] | None = None) -> None:
        """The run begins; `config` is the resolved tree that its steps take their sections from."""
        self._append("run_opened", RunOpened(config=dict(config or {})), urgent=True)

    def step_started(
        self,
        step: str,
        version: int,
        config: Mapping[str, Any],
        inputs: Mapping[str, Sequence[str]],
        *,
        options: Mapping[str, Any] | None = None,
        observed: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        budget_s: float | None = None,
    ) -> None:
        """A step begins.

        Args:
            step: registered name, `phase.step`.
            version: its version.
            config: identity config, the hashed part.
            inputs: digests by role.
            options: every option, execution and defaults too: what MLflow shows as params.
            observed: commit, image, host…
            tags: what to find this step by, e.g. `{"round": "2"}`.
            budget_s: wall time that the plan allows this step, for the report.
        """
        data = StepStarted(
            step=step,
            version=version,
            config=dict(config),
            config_sha256=sha256(canonical(dict(config))),
            options=dict(options or config),
            inputs={role: list(digests) for role, digests in inputs.items() if digests},
            observed=dict(observed or {}),
            tags=dict(tags or {}),
            budget_s=budget_s,
        )
        self._append("step_started", data, urgent=True)

    def step_finished(
        self,
        step: str,
        outputs: Mapping[str, Manifest],
        cache: Cache,
        seconds: float,
    ) -> None:
        """A step is done; its outputs of kind weights become MLflow models.

        Args:
            step: registered name.
            outputs: manifests by role.
            cache: `hit`, `miss`, or `effect`, which is never cached.
            seconds: wall time.
        """
        described = {role: _describe(manifest) for role, manifest in outputs.items()}
        data = StepFinished(step=step, outputs=described, cache=cache, seconds=seconds)
        self._append("step_finished", data, urgent=True)

    def step_failed(self, step: str, failure: BaseException | str) -> None:
        """A step gave up; what a person is told of it."""
        code = exit_code(failure) if isinstance(failure, BaseException) else EXIT_BAD_INPUT
        if isinstance(failure, BaseException) and not isinstance(failure, UserError):
            failure = f"{type(failure).__name__}: {failure}".rstrip(": ")
        self._append("step_failed", StepFailed(step=step, message=str(failure), exit_code=code), urgent=True)

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self.metrics({name: value}, step)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers at a point of the work; for training `step` counts the tokens seen."""
        numbers = {name: _number(value) for name, value in values.items()}
        self._append("metrics", Metrics(values=numbers, step=step or 0))

    def params(self, values: Mapping[str, Any]) -> None:
        """Facts of the work that are no option, e.g. the number of parameters."""
        self._append("params", Params(values=dict(values)))

    def artifact(self, name: str, blob: str, *, on: Literal["step", "run"] = "step") -> None:
        """A stored file (`blob` is its sha256) to show under `name` in MLflow: a report, a picture."""
        self._append("artifact", Artifact(name=name, blob=blob, on=on), urgent=True)

    def model(
        self,
        name: str,
        manifest: Manifest,
        *,
        uri: str | None = None,
        config: Mapping[str, Any] | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """A checkpoint to see as an MLflow model before its step is over; `step` counts the tokens seen."""
        data = Model(
            name=name,
            digest=manifest.digest,
            uri=uri or self._store.manifest_uri(manifest.digest),
            config=dict(config or {}),
            step=step or 0,
            metrics={key: _number(value) for key, value in (metrics or {}).items()},
        )
        self._append("model", data, urgent=True)

    def run_closed(self, status: Status, message: str = "") -> None:
        self._append("run_closed", RunClosed(status=status, message=message), urgent=True)

    # Writing --------------------------------------------------------------------------------------------------------

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until everything so far is stored; False when it is not after `timeout_s`."""
        with self._change:
            target, self._urgent = self._queued, True
            self._change.notify_all()
            return self._change.wait_for(lambda: self._written + self._lost >= target, timeout_s)

    def close(self, timeout_s: float = 30.0) -> None:
        """Store what is buffered and end the writer; says so when the store did not take it in time."""
        if self._closed or os.getpid() != self._pid:
            return
        complete = self._thread is None or self.flush(timeout_s)
        with self._change:
            self._closed, self._given_up = True, not complete
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(5.0)
        atexit.unregister(self.close)
        if not complete:
            missing = self._queued - self._written
            self._log.warning("events lost: the store did not take them in time", events=missing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, kind: Kind, data: Mapping[str, object], *, urgent: bool = False) -> None:
        now = time.time()
        event = {"kind": kind, "time": now, "data": data}
        if self._seen:
            self._seen(kind, data, now)
        with self._change:
            if self._closed:
                raise ValueError(f"event log of task {self.task} is closed")
            if len(self._pending) >= _MAX_PENDING:
                self._forget_oldest_metrics()
            self._pending.append(event)
            self._queued += 1
            self._urgent |= urgent
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_loop, name=f"events-{self.task}", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            if urgent:
                self._change.notify_all()

    def _forget_oldest_metrics(self) -> None:
        kept = [e for e in self._pending[: _MAX_PENDING // 2] if e["kind"] != "metrics"]
        forgotten = _MAX_PENDING // 2 - len(kept)
        self._pending[: _MAX_PENDING // 2] = kept
        self._lost += forgotten
        self._log.warning("the store is away and the buffer is full: oldest metrics dropped", metrics=forgotten)

    def _interval_s(self) -> float:
        """Two seconds at first, half a minute in a step that has run for hours."""
        return min(_LAST_FLUSH_S, max(_FIRST_FLUSH_S, (time.monotonic() - self._opened_at) / 60))

    def _write_loop(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._urgent or self._closed, self._interval_s())
                batch, self._pending, self._urgent = self._pending, [], False
                if not batch and self._closed:
                    return
            if batch and not self._store_batch(batch):
                return
            with self._change:
                self._written += len(batch)
                self._change.notify_all()

    def _store_batch(self, batch: list[dict[str, Any]]) -> bool:
        """Store one file, for as long as it takes; False when closing gave up on it."""
        data = orjson.dumps({"events": batch}, option=orjson.OPT_SERIALIZE_NUMPY, default=str)
        pause_s, away = 0.5, False
        while True:
            try:
                if self._sequence == 0:
                    self._store.backend.create(run_key(self.run.key), self.run.model_dump_json().encode())
                self._store.backend.put(
                    f"{events_prefix(self.run.key, self.task)}{self._attempt}-{self._sequence:08d}.json", data
                )
                self._sequence += 1
                return True
            except Exception as error:  # whatever it is, the work goes on and the events wait
                if not away:
                    self._log.warning("events wait for the store, the work goes on", reason=first_line(error))
                away = True
                with self._change:
                    if self._change.wait_for(lambda: self._given_up, pause_s):
                        return False
                pause_s = min(pause_s * 2, 30.0)


def _describe(manifest: Manifest) -> Output:
    return Output(
        digest=manifest.digest,
        content=manifest.content,
        kind=manifest.kind,
        step=manifest.step,
        counts=manifest.counts,
        dropped=manifest.dropped,
        bytes=sum(shard.size for shard in manifest.shards),
    )


def _number(value: float) -> Number:
    if math.isfinite(value):
        return float(value)
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
