"""Events → MLflow: one parent run a pipeline run, one nested run a step, datasets with digests, models with pointers.

Delivery may be repeated, raced and interrupted: what exists once is agreed on in the store (`connection.once`), tags
and params are set to the same values, MLflow keeps a metric of equal name, step, time and value once, and a cursor says
what is done.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tokenmill.config import flatten
from tokenmill.errors import CorruptError
from tokenmill.logs import Log
from tokenmill.manifest import JSON, Manifest, canonical, sha256
from tokenmill.store import ArtifactStore
from tokenmill.store.backend import NotFoundError
from tokenmill.tracking.connection import (
    MANIFEST_TAG,
    RUN_KEY_TAG,
    Refused,
    connect,
    local_root,
    once,
    one_line_errors,
    patiently,
    target_name,
    tracking_uri,
    without_userinfo,
)
from tokenmill.tracking.events import (
    Event,
    EventFile,
    RunRef,
    list_event_files,
    manifest_uri,
    one_line,
    read_event_file,
    read_run,
)
from tokenmill.tracking.logged_model import write_model

_DATASETS = {"corpus", "tokens", "conversations", "preferences", "questions"}
_TRAINING_PHASES = {"pretraining", "enhancement", "sft", "rlhf"}
_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
_OBSERVED_TAGS = {"commit": "mlflow.source.git.commit", "image": "image.digest", "namespace": "k8s.namespace"}
_MAX_METRICS, _MAX_PARAMS = 1000, 100  # what MLflow takes in one call
_CURSOR_EVERY = 100  # files
_GONE = (NotFoundError, CorruptError)
"""What an event names was collected or damaged since: the others are told all the same."""
LIVE_EVERY_S = float(os.environ.get("TOKENMILL_DELIVER_EVERY_S", "15"))
"""How often a long step's events go to MLflow while it works."""


class Delivered(NamedTuple):
    """What one delivery did."""

    run_id: str
    experiment: str
    events: int
    refused: int
    """Events that were left out: MLflow refuses them, or what they name was collected from the store."""
    url: str | None


def deliver(
    store: ArtifactStore,
    run_key: str,
    tracking_uri: str | None = None,
    *,
    task: str | None = None,
    again: bool = False,
) -> Delivered:
    """Bring MLflow up to date with the run's events.

    Args:
        store: where the run's events lie.
        run_key: the run.
        tracking_uri: default MLFLOW_TRACKING_URI, else sqlite beside a local store.
        task: only this task's events.
        again: forget what was delivered and deliver everything, e.g. to an MLflow whose database was lost.

    Raises:
        InputError: the store has no such run.
        TrackingError: MLflow is away; everything stays in the store and the next delivery goes on from there.
    """
    return Delivery(store, run_key, tracking_uri).deliver(task=task, again=again)


class Delivery:
    """One run's way into one MLflow; keep it to deliver repeatedly."""

    def __init__(self, store: ArtifactStore, run: str | RunRef, uri: str | None = None):
        self.store = store
        self.run = run if isinstance(run, RunRef) else read_run(store, run)
        self.uri = tracking_uri(store, uri)
        self.client = connect(self.uri)
        self._root = f"runs/{self.run.key}/delivered/{target_name(self.uri)}/"
        self._experiment_id: str | None = None
        self._parent_id: str | None = None

    @property
    def experiment(self) -> str:
        project = self.run.tags.get("project") or self.run.preset or "default"
        return "/".join(part for part in ("tokenmill", self.run.team, project) if part)

    def deliver(self, *, task: str | None = None, again: bool = False) -> Delivered:
        with one_line_errors(self.uri):
            if again or not self._parent_still_there():
                self._forget()
            parent = patiently(self.uri, self.parent_id)
            events = refused = 0
            for name, files in list_event_files(self.store, self.run.key, task).items():
                done, not_taken = _TaskDelivery(self, name).deliver(files)
                events, refused = events + done, refused + not_taken
            self._close_if_over(parent)
        return Delivered(parent, self.experiment, events, refused, self._url(parent))

    # What exists once -----------------------------------------------------------------------------------------------

    def experiment_id(self) -> str:
        if self._experiment_id is None:
            self._experiment_id = ensure_experiment(self.client, self.store, self.uri, self.experiment)
        return self._experiment_id

    def parent_id(self) -> str:
        """The MLflow run that stands for the pipeline run."""
        if self._parent_id is None:
            tags = {
                **self.run.tags,
                "tokenmill.preset": self.run.preset,
                "tokenmill.store": without_userinfo(self.store.uri),
                RUN_KEY_TAG: self.run.key,
                "tokenmill.level": "run",
            }
            self._parent_id = self._run_once("parent", self.run.name, tags, started=None)
        return self._parent_id

    def nested_id(self, task: str, started: Event) -> str:
        """The nested run of a step. A retry of the same work is the same run; edited config or inputs are another."""
        data, phase = started.data, str(started.data["step"]).split(".")[0]
        inputs = sorted((role, digest) for role, digests in data["inputs"].items() for digest in digests)
        identity = sha256(canonical([data["step"], data["version"], data["config_sha256"], inputs]))[:12]
        data_digest = inputs[0][1] if len(inputs) == 1 else sha256(canonical(inputs))
        tags = {
            **{key: value for key, value in self.run.tags.items() if key.startswith(("kfp.", "k8s."))},
            **{_OBSERVED_TAGS[key]: str(value) for key, value in data["observed"].items() if key in _OBSERVED_TAGS},
            **data["tags"],
            "mlflow.parentRunId": self.parent_id(),
            "phase": phase,
            "kfp.task": task,
            "config.sha256": data["config_sha256"],
            "data.digest": data_digest if inputs else "",
            "tokenmill.step": data["step"],
            "tokenmill.version": str(data["version"]),
            "tokenmill.nested": f"{self.run.key}/{task}/{identity}",
            "tokenmill.level": "step",
        }
        name = f"{data['step']}-{data['config_sha256'][:8]}-{self.run.key[-8:]}"
        return self._run_once(f"nested/{task}/{identity}", name, tags, started=started)

    def model_id(
        self,
        manifest: Manifest,
        *,
        name: str,
        config: Mapping[str, JSON],
        run_id: str | None = None,
        step: int = 0,
    ) -> str:
        """The MLflow model of a manifest of kind weights or release: what `write_model` writes, no weight bytes."""
        from mlflow.entities import LoggedModelOutput

        run_id = run_id or self.parent_id()
        experiment = self.experiment_id()

        def find() -> str | None:
            quoted = f"tags.`{MANIFEST_TAG}` = '{manifest.digest}' AND tags.`{RUN_KEY_TAG}` = '{self.run.key}'"
            found = self.client.search_logged_models([experiment], filter_string=quoted, max_results=1)
            return str(found[0].model_id) if found else None

        def create() -> str:
            params = {key: str(value)[:6000] for key, value in flatten(config) if str(value)}
            model = self.client.create_logged_model(
                experiment, name=name, source_run_id=run_id, params=params, model_type="llm"
            )
            return str(model.model_id)

        key = f"{self._root}models/{manifest.digest}"
        model_id = once(self.store, key, find=find, create=create, discard=self.client.delete_logged_model)
        if self.store.backend.exists(f"{key}.ready"):
            return model_id
        with tempfile.TemporaryDirectory() as folder:
            write_model(self.store, manifest, Path(folder), model_id)
            self.client.log_model_artifacts(model_id, folder)
        self.client.set_logged_model_tags(
            model_id,
            {
                MANIFEST_TAG: manifest.digest,
                RUN_KEY_TAG: self.run.key,
                "tokenmill.content": manifest.content,
                "tokenmill.uri": manifest_uri(self.store, manifest.digest),
                "tokenmill.step": manifest.step,
            },
        )
        outputs = self.client.get_run(run_id).outputs
        if model_id not in {o.model_id for o in (outputs.model_outputs if outputs else [])}:
            self.client.log_outputs(run_id, [LoggedModelOutput(model_id, step)])
        self.client.finalize_logged_model(model_id, "READY")
        self.store.backend.put(f"{key}.ready", b"")
        return model_id

    def _run_once(self, key: str, name: str, tags: Mapping[str, str], *, started: Event | None) -> str:
        """An MLflow run that exists once. It gets the tags it is found by only when it is the one."""
        mark = "tokenmill.nested" if "tokenmill.nested" in tags else RUN_KEY_TAG

        def find() -> str | None:
            found = self.client.search_runs(
                [self.experiment_id()],
                f"tags.`{mark}` = '{tags[mark]}' AND tags.`tokenmill.level` = '{tags['tokenmill.level']}'",
                max_results=1,
            )
            return str(found[0].info.run_id) if found else None

        def create() -> str:
            start = int(started.time * 1000) if started else self._first_event_ms()
            run = self.client.create_run(self.experiment_id(), start_time=start, run_name=name)
            return str(run.info.run_id)

        run_id = once(self.store, self._root + key, find=find, create=create, discard=self.client.delete_run)
        log_all(self.client, run_id, tags=tags)
        return run_id

    def _first_event_ms(self) -> int:
        files = [file for task in list_event_files(self.store, self.run.key).values() for file in task]
        return min((int(file.attempt.split("-")[0]) for file in files), default=time.time_ns()) // 1_000_000

    def _parent_still_there(self) -> bool:
        """False when MLflow lost the run with its database. A run that a person deleted is not brought back."""
        from mlflow.exceptions import MlflowException

        key = f"{self._root}parent"
        if not self.store.backend.exists(key):
            return True
        run_id = self.store.backend.get(key).decode()
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            Log().warning("MLflow has lost this run; delivering it again from the start", run=self.run.key)
            return False
        if run.info.lifecycle_stage == "deleted":
            raise Refused(f"run {self.run.key} was deleted in MLflow ({run_id}): restore it there, or deliver it again")
        return True

    def _forget(self) -> None:
        self._parent_id = self._experiment_id = None
        for entry in list(self.store.backend.list(self._root)):
            self.store.backend.delete(entry.key)

    # The end of a run -----------------------------------------------------------------------------------------------

    def remember(self, event: Event) -> None:
        """Keep the latest opening and closing: they come from different tasks, in any order."""
        kept = self._remembered(event.kind)
        if kept is None or event.time >= kept["time"]:
            self.store.backend.put(f"{self._root}{event.kind}", orjson.dumps(event._asdict()))

    def _remembered(self, kind: str) -> dict[str, Any] | None:
        key = f"{self._root}{kind}"
        return orjson.loads(self.store.backend.get(key)) if self.store.backend.exists(key) else None

    def _close_if_over(self, parent: str) -> None:
        """The parent's final status; a step that never reported an end was killed. A run may be opened again."""
        event, opened = self._remembered("run_closed"), self._remembered("run_opened")
        if event is None or (opened is not None and opened["time"] > event["time"]):
            return
        end = int(event["time"] * 1000)
        nested = self.client.search_runs(
            [self.experiment_id()],
            f"tags.`mlflow.parentRunId` = '{parent}' AND attributes.status = 'RUNNING'",
            max_results=1000,
        )
        for run in nested:
            self.client.set_terminated(run.info.run_id, "KILLED", end)
        if message := event["data"].get("message"):
            self.client.set_tag(parent, "tokenmill.last_error", message[:5000])
        self.client.set_terminated(parent, _STATUS[event["data"]["status"]], end)

    def _url(self, run_id: str) -> str | None:
        if not self.uri.startswith("http"):
            return None
        return f"{without_userinfo(self.uri).rstrip('/')}/#/experiments/{self.experiment_id()}/runs/{run_id}"


class _TaskDelivery:
    """One task's events, in order, from where the cursor stands.

    A task may have several writers: a launcher and the training it started, and their retries. An event belongs to the
    step that its own writer started; a writer that started none (a rank) to the one that was under way when it began.
    """

    def __init__(self, delivery: Delivery, task: str):
        self.delivery, self.client, self.store, self.task = delivery, delivery.client, delivery.store, task
        self._cursor_key = f"{delivery._root}cursor/{task}.json"
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
        log_all(self.client, run_id, params=((k, v) for k, v in flatten(values) if _allowed(k) not in known))

    def _log_datasets(self, run_id: str, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        phase = str(event.data["step"]).split(".")[0]
        context = "training" if phase in _TRAINING_PHASES else phase
        datasets = []
        for role, digests in event.data["inputs"].items():
            for manifest in self._there(digests):
                if manifest.kind not in _DATASETS:
                    continue
                uri = manifest_uri(self.store, manifest.digest)
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


class DeliveryThread:
    """Delivers a long step's events while it works, and what is left when it stops if MLflow was ever reached.

    A step shorter than `every_s` never imports mlflow. An MLflow that is away costs one warning line; the thread goes on
    trying, the work does not notice, and what could not be delivered waits for the exit task.
    """

    def __init__(
        self,
        store: ArtifactStore,
        run: RunRef,
        task: str,
        *,
        tracking_uri: str | None = None,
        every_s: float = LIVE_EVERY_S,
        stop_timeout_s: float = 10.0,
    ):
        self._store, self._run, self._task, self._uri = store, run, task, tracking_uri
        self._log = Log({"run": run.key, "task": task})
        self._every_s, self._stop_timeout_s = every_s, stop_timeout_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"deliver-{task}", daemon=True)
        self._delivery: Delivery | None = None
        self._away = False

    def __enter__(self) -> "DeliveryThread":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Flush the task's `EventLog` first: the last delivery sees only what is stored."""
        self._stopping.set()
        self._thread.join(self._stop_timeout_s)
        if self._thread.is_alive():
            self._log.warning("MLflow is slow; what is left is delivered when the run closes")

    def _loop(self) -> None:
        pause_s = self._every_s
        while not self._stopping.wait(pause_s):
            pause_s = self._every_s if self._attempt() else min(2 * pause_s, 60.0)
        if self._delivery and not self._away:
            self._attempt()

    def _attempt(self) -> bool:
        try:
            if self._delivery is None:
                self._delivery = Delivery(self._store, self._run, self._uri)
            self._delivery.deliver(task=self._task)
        except Exception as error:  # whatever tracking does, the work goes on
            if not self._away:
                self._log.warning("tracking waits, the work goes on", reason=one_line(error))
            self._away = True
            return False
        if self._away:
            self._log.info("MLflow is back, tracking is up to date")
        self._away = False
        return True


def ensure_experiment(client: Any, store: ArtifactStore, uri: str, name: str) -> str:
    """The experiment's id. Beside a local store its artifacts lie in the store's folder, not in the caller's."""
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        if found.lifecycle_stage == "deleted":
            raise Refused(f"MLflow experiment {name!r} was deleted: restore it (`mlflow experiments restore`)")
        return str(found.experiment_id)
    beside = uri.startswith("sqlite:") and store.uri.startswith("file://")
    location = f"file://{local_root(store)}/mlflow-artifacts/{name.replace('/', '-')}" if beside else None
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return str(client.get_experiment_by_name(name).experiment_id)


def log_all(
    client: Any,
    run_id: str,
    *,
    metrics: Iterable[tuple[str, Any, int, float]] = (),
    params: Iterable[tuple[str, Any]] = (),
    tags: Mapping[str, str] | None = None,
) -> None:
    """Log any number of (name, value, step, time), params and tags, in as few calls as MLflow allows."""
    from mlflow.entities import Metric, Param, RunTag

    points = [Metric(_allowed(n), float(v), int(at * 1000), step) for n, v, step, at in metrics]
    pairs = [Param(_allowed(key), str(value)[:6000]) for key, value in params]
    labels = [RunTag(key, value[:5000]) for key, value in (tags or {}).items() if value]
    while points or pairs or labels:
        client.log_batch(run_id, points[:_MAX_METRICS], pairs[:_MAX_PARAMS], labels[:_MAX_PARAMS], synchronous=True)
        points, pairs, labels = points[_MAX_METRICS:], pairs[_MAX_PARAMS:], labels[_MAX_PARAMS:]


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


def _allowed(name: str) -> str:
    """MLflow takes letters, digits and `_-. :/` in names."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)[:250]
