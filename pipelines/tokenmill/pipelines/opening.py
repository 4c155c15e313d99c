"""What the opening, closing and importing tasks do."""

import os
from collections.abc import Mapping
from typing import Any

import orjson

from tokenmill.config import flatten, is_execution, load_preset, merge, nest
from tokenmill.errors import ConfigError, UserError, told_in_one_line
from tokenmill.lifecycle_config import LifecycleConfig
from tokenmill.logs import Log
from tokenmill.steps.component import RunContext, write_pointer
from tokenmill.store import ArtifactStore, open_store
from tokenmill.telemetry import GATEWAY, Board, Page, leave_run
from tokenmill.tracking import EventLog, RunRef, deliver, read_events, read_run
from tokenmill.tracking.event_data import Status

RUN_KEY = "TOKENMILL_RUN_KEY"
"""Environment: the run's key where the caller chose it (the CLI); on a cluster it is KFP's job id."""
EXECUTION = "TOKENMILL_EXECUTION"
"""Environment: dotted execution fields → value, as JSON: how runs are computed here (`tokenmill run --set`, a ConfigMap)."""


def open_run(
    name: str, preset: str, overrides: Mapping[str, Any], job_id: str, rounds: int = 0, most_rounds: int = 0
) -> str:
    """A `RunContext` as JSON. Exit code 2 with one line where preset, overrides or rounds are wrong."""
    with told_in_one_line():
        refuse_execution(overrides)
        if not 0 <= rounds <= most_rounds:
            raise ConfigError(f"rounds={rounds}: this pipeline has {most_rounds} rounds; give 0 to {most_rounds}")
        overrides = {**overrides, **execution()}
        tree = merge(load_preset(preset), nest(overrides))
        LifecycleConfig.at("", tree)
        tags = RunRef.owned({"kfp.run_id": job_id})
        ref = RunRef(key=os.environ.get(RUN_KEY) or job_id, name=name, preset=preset, tags=tags)
        with EventLog(open_store(), ref, "open") as events:
            events.run_opened(config=tree)
    return RunContext(run=ref, overrides=dict(overrides)).model_dump_json()


def execution() -> dict[str, Any]:
    """What this place says about how runs are computed in it: `tokenmill run --set`, or a cluster's ConfigMap."""
    told = orjson.loads(os.environ.get(EXECUTION) or "{}")
    if found := [path for path, _ in flatten(told) if not is_execution(path)]:
        raise ConfigError(
            f"{EXECUTION} takes execution fields only, not {found[0]!r}: it may not decide what comes out"
        )
    return dict(told)


def refuse_execution(overrides: Mapping[str, Any]) -> None:
    """A pipeline's parameter says what comes out; how it is computed is the preset's and the profile's to say."""
    if found := [path for path, _ in flatten(overrides) if is_execution(path)]:
        raise ConfigError(
            f"overrides take identity fields only, not {found[0]!r}: how a package is computed is decided by its preset "
            f"and profile when it is compiled; on one machine, `tokenmill run --set {found[0]}=…` decides"
        )


def close_run(job_id: str, state: str, message: str) -> None:
    """Record the final state, bring MLflow up to date, notify. Their being away costs the run nothing (`tokenmill track`)."""
    from tokenmill.pipelines.notify import notify
    from tokenmill.pipelines.refusal import refusal

    store = open_store()
    key = os.environ.get(RUN_KEY) or job_id
    if refused := refusal(store, key):
        Log({"run": key}).warning(refused)
    known: dict[str, Status] = {"SUCCEEDED": "succeeded", "CANCELLED": "cancelled"}
    run, status = read_run(store, key), known.get(state, "failed")
    with EventLog(store, run, "close") as events:
        events.run_closed(status, message or refused)
    try:
        deliver(store, key)
    except UserError as away:
        Log({"run": key}).warning(f"not delivered to MLflow: {away}")
    if os.environ.get(GATEWAY):
        _leave_metrics(store, run, status)
    notify(store, key)


def _leave_metrics(store: ArtifactStore, run: RunRef, status: Status) -> None:
    """The whole run's numbers for Prometheus: what its tasks pushed one by one goes."""
    boards, ended = dict[str, Board](), 0.0
    for event in read_events(store, run.key):
        boards.setdefault(event.task, Board(Page(), event.task)).take(event.kind, event.data, event.time)
        ended = event.time
    page = Page.of_all(board.page for board in boards.values())
    page.set("tokenmill_run_success", float(status == "succeeded"))
    page.set("tokenmill_run_finished_timestamp_seconds", ended)
    leave_run(page, run.key, {board.labels["task"] for board in boards.values()}, run.name, run.preset)


def import_manifest(run: str, uri: str, artifact: Any) -> None:
    """Point to an existing manifest by digest, unique prefix, manifest URI or `models:/name@alias`."""
    from tokenmill.lineage import resolve

    with told_in_one_line():
        store = open_store()
        write_pointer(store, store.get_manifest(resolve(store, uri)), artifact)
