"""Events → MLflow: one parent run a pipeline run, one nested run a step, datasets with digests, models with pointers.

Delivery may be repeated, raced and interrupted: what exists once is agreed on in the store (`connection.once`), tags
and params are set to the same values, MLflow keeps a metric of equal name, step, time and value once, and a cursor says
what is done.
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tokenmill.config import flatten
from tokenmill.logs import Log
from tokenmill.manifest import JSON, Manifest, canonical, sha256
from tokenmill.store import ArtifactStore
from tokenmill.tracking.batches import log_all
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
from tokenmill.tracking.event_files import Event, list_event_files
from tokenmill.tracking.logged_model import write_model
from tokenmill.tracking.run import RunRef, read_run
from tokenmill.tracking.task_delivery import TaskDelivery

_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
_OBSERVED_TAGS = {"commit": "mlflow.source.git.commit", "image": "image.digest", "namespace": "k8s.namespace"}


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
        self.root = f"runs/{self.run.key}/delivered/{target_name(self.uri)}/"
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
                done, not_taken = TaskDelivery(self, name).deliver(files)
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

        key = f"{self.root}models/{manifest.digest}"
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
                "tokenmill.uri": self.store.manifest_uri(manifest.digest),
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

        run_id = once(self.store, self.root + key, find=find, create=create, discard=self.client.delete_run)
        log_all(self.client, run_id, tags=tags)
        return run_id

    def _first_event_ms(self) -> int:
        files = [file for task in list_event_files(self.store, self.run.key).values() for file in task]
        return min((int(file.attempt.split("-")[0]) for file in files), default=time.time_ns()) // 1_000_000

    def _parent_still_there(self) -> bool:
        """False when MLflow lost the run with its database. A run that a person deleted is not brought back."""
        from mlflow.exceptions import MlflowException

        key = f"{self.root}parent"
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
        for entry in list(self.store.backend.list(self.root)):
            self.store.backend.delete(entry.key)

    # The end of a run -----------------------------------------------------------------------------------------------

    def remember(self, event: Event) -> None:
        """Keep the latest opening and closing: they come from different tasks, in any order."""
        kept = self._remembered(event.kind)
        if kept is None or event.time >= kept["time"]:
            self.store.backend.put(f"{self.root}{event.kind}", orjson.dumps(event._asdict()))

    def _remembered(self, kind: str) -> dict[str, Any] | None:
        key = f"{self.root}{kind}"
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
