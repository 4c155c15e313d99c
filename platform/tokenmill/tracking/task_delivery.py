"""One task's events → its nested runs in MLflow."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from tokenmill.config import flatten
from tokenmill.errors import CorruptError
from tokenmill.logs import Log
from tokenmill.manifest import JSON, Manifest
from tokenmill.store.backend import NotFoundError
from tokenmill.tracking.batches import allowed, log_all
from tokenmill.tracking.connection import Refused, patiently
from tokenmill.tracking.event_files import Event, EventFile, read_event_file

if TYPE_CHECKING:
    from tokenmill.tracking.delivery import Delivery

_DATASETS = {"corpus", "tokens", "conversations", "preferences", "questions"}
_TRAINING_PHASES = {"pretraining", "enhancement", "sft", "rlhf"}
_CURSOR_EVERY = 100  # files
_GONE = (NotFoundError, CorruptError)
"""What an event names was collected or damaged since: the others are told all the same."""


class TaskDelivery:
    """One task's events, in order, from where the cursor stands.

    A task may have several writers: a launcher and the training it started, and their retries. An event belongs to the
    step that its own writer started; a writer that started none (a rank) to the one that was under way when it began.
    """

    def __init__(self, delivery: "Delivery", task: str):
        self.delivery, self.client, self.store, self.task = delivery, delivery.client, delivery.store, task
        self._cursor_key = f"{delivery.root}cursor/{task}.json"
        self._cursor: dict[str, Any] = {"next": {}, "started": []}
        if self.store.backend.exists(self._cursor_key):
            self._cursor = orjson.loads(self.store.backend.get(self._cursor_key))
        self._attempt = ""

    def deliver(self, files: Iterable[EventFile]) -> tuple[int, int]:
        """Returns (events delivered, events left out)."""
        events = refused = read = 0
        for file in files:
            if file.sequence < self._cursor["next"].get(file.attempt, 0):
                continue
            self._attempt = file.attempt
            batch = read_event_file(self.store, file)
            for event in _merge_metrics(batch):
                try:
                    patiently(self.delivery.uri, partial(getattr(self, f"_{event.kind}"), event))
                except (Refused, *_GONE) as reason:
                    refused += 1
                    self._left_out(reason)
            events, read = events + len(batch), read + 1
            self._cursor["next"][file.attempt] = file.sequence + 1
            if read % _CURSOR_EVERY == 0:
                self._save()
        if read:
            self._save()
        return events, refused

    def _left_out(self, reason: Exception) -> None:
        Log().warning("not delivered", run=self.delivery.run.key, task=self.task, reason=str(reason))

    def _save(self) -> None:
        self.store.backend.put(self._cursor_key, orjson.dumps(self._cursor))

    def _here(self) -> str:
        """The nested run that the current writer's events belong to; the parent where no step has begun."""
        started = self._cursor["started"]
        own = [run_id for attempt, run_id in started if attempt == self._attempt]
        before = [run_id for attempt, run_id in sorted(started) if attempt < self._attempt]
        return str((own or before or [self.delivery.parent_id()])[-1])

    def _run_opened(self, event: Event) -> None:
        self.delivery.remember(event)
        self._set_params(self.delivery.parent_id(), event.data.get("config", {}))

    def _run_closed(self, event: Event) -> None:
        self.delivery.remember(event)

    def _step_started(self, event: Event) -> None:
        run_id = self.delivery.nested_id(self.task, event)
        self._cursor["started"].append([self._attempt, run_id])
        if self.client.get_run(run_id).info.status not in {"RUNNING", "FINISHED"}:  # a retry of what failed
            self.client.update_run(run_id, status="RUNNING")
        self._set_params(run_id, event.data["options"])
        self._log_datasets(run_id, event)

    def _params(self, event: Event) -> None:
        self._set_params(self._here(), event.data["values"])

    def _set_params(self, run_id: str, values: Mapping[str, JSON]) -> None:
        """A param of MLflow never changes: the first value stays, e.g. the workers of the first of two attempts."""
        known = self.client.get_run(run_id).data.params
        log_all(self.client, run_id, params=((k, v) for k, v in flatten(values) if allowed(k) not in known))

    def _log_datasets(self, run_id: str, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        phase = str(event.data["step"]).split(".")[0]
        context = "training" if phase in _TRAINING_PHASES else phase
        datasets = []
        for role, digests in event.data["inputs"].items():
            for manifest in self._there(digests):
                if manifest.kind not in _DATASETS:
                    continue
                uri = self.store.manifest_uri(manifest.digest)
                dataset = Dataset(
                    name=f"{manifest.step} {manifest.kind}",
                    digest=manifest.digest[:36],  # as much as MLflow keeps; the whole one is in the source's address
                    source_type="s3" if uri.startswith("s3:") else "local",
                    source=orjson.dumps({"uri": uri}).decode(),
                    profile=orjson.dumps(manifest.counts).decode(),
                )
                tags = [InputTag("mlflow.data.context", context), InputTag("tokenmill.role", role)]
                datasets.append(DatasetInput(dataset, tags))
        if datasets:
            self.client.log_inputs(run_id, datasets)

    def _there(self, digests: Iterable[str]) -> Iterator[Manifest]:
        """The manifests that are still in the store."""
        for digest in digests:
            try:
                yield self.store.get_manifest(digest)
            except _GONE as gone:
                self._left_out(gone)

    def _step_finished(self, event: Event) -> None:
        run_id, data = self._here(), event.data
        metrics = [("seconds", data["seconds"])]
        for role, output in data["outputs"].items():
            metrics += [(f"output/{role}/{name}", count) for name, count in output["counts"].items()]
            metrics += [(f"dropped/{reason}", count) for reason, count in output["dropped"].items()]
        before = self.client.get_run(run_id)
        if not (before.info.status == "FINISHED" and data["cache"] == "hit"):  # the work's own time stays
            tags = {f"output.{role}": output["digest"] for role, output in data["outputs"].items()}
            points = ((name, value, 0, event.time) for name, value in metrics)
            log_all(self.client, run_id, metrics=points, tags={"tokenmill.cache": data["cache"], **tags})
        if run_id != self.delivery.parent_id() and before.info.status != "FINISHED":
            self.client.set_terminated(run_id, "FINISHED", int(event.time * 1000))
        for role, output in data["outputs"].items():
            if output["kind"] == "weights":
                self._weights(self.store.get_manifest(output["digest"]), role, run_id)

    def _weights(self, manifest: Manifest, role: str, run_id: str) -> str:
        name = manifest.step.replace(".", "-") + ("" if role in {"weights", "output"} else f"-{role}")
        return self.delivery.model_id(manifest, name=name, config=manifest.config, run_id=run_id)

    def _step_failed(self, event: Event) -> None:
        run_id = self._here()
        self.client.set_tag(run_id, "tokenmill.last_error", str(event.data["message"])[:5000])
        if run_id != self.delivery.parent_id() and self.client.get_run(run_id).info.status != "FINISHED":
            self.client.set_terminated(run_id, "FAILED", int(event.time * 1000))

    def _metrics(self, event: Event) -> None:
        log_all(self.client, self._here(), metrics=event.data["points"])

    def _artifact(self, event: Event) -> None:
        run_id = self.delivery.parent_id() if event.data["on"] == "run" else self._here()
        folder, _, name = str(event.data["name"]).rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / name
            path.write_bytes(self.store.get_blob(event.data["blob"]))
            self.client.log_artifact(run_id, str(path), folder or None)

    def _model(self, event: Event) -> None:
        from mlflow.entities import Metric

        data, run_id = event.data, self._here()
        manifest = self.store.get_manifest(data["digest"])
        config = data["config"] or manifest.config
        name = data["name"].replace(".", "-").replace("/", "-")
        model_id = self.delivery.model_id(manifest, name=name, config=config, run_id=run_id, step=data["step"])
        at = int(event.time * 1000)
        metrics = [Metric(k, float(v), at, data["step"], model_id=model_id) for k, v in data["metrics"].items()]
        if metrics:
            self.client.log_batch(run_id, metrics=metrics, synchronous=True)


def _merge_metrics(events: Iterable[Event]) -> Iterator[Event]:
    """Neighbouring metrics events as one with `points`, so that MLflow is called once for many."""
    points: list[tuple[str, Any, int, float]] = []
    last: Event | None = None
    for event in events:
        if event.kind == "metrics":
            points += [(name, v, event.data["step"], event.time) for name, v in event.data["values"].items()]
            last = event
            continue
        if last is not None:
            yield last._replace(data={"points": points})
            points, last = [], None
        yield event
    if last is not None:
        yield last._replace(data={"points": points})
