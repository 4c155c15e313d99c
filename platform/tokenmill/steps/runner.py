"""Running a step: preflight, action cache, lease, work, and manifests issued anew.

The action cache's key is step, version, identity config and the inputs' *contents*; its entry holds the outputs' contents,
and beside them where they were made. On every call, hit or miss, manifests are issued with the present parents: equal bytes
from two sources share the work and keep two lineages. So resume is rerun. An effect that chooses among its inputs returns the
very manifest: a choice makes nothing, and adds nothing to a lineage.
"""

import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tokenmill.config import StepConfig, step_budgets
from tokenmill.environment import recorded
from tokenmill.errors import ConfigError, InputError, StoreError
from tokenmill.logs import Log
from tokenmill.manifest import Draft, Manifest, canonical, sha256
from tokenmill.steps.context import StepContext
from tokenmill.steps.files import scratch
from tokenmill.steps.pool import WorkerPool
from tokenmill.steps.registry import Definition, find
from tokenmill.store import ArtifactStore, acquire
from tokenmill.telemetry import Board, Page, info, leave, served
from tokenmill.tracking import DeliveryThread, EventLog, RunRef
from tokenmill.tracking.event_data import Cache

Inputs = Mapping[str, Manifest | Sequence[Manifest] | None]
LEASE_TTL_S = float(os.environ.get("TOKENMILL_LEASE_TTL_S", "30"))
"""A lease whose heartbeat stood still this long is taken over."""
MIN_FREE_BYTES = 256 << 20


def run_step(
    name: str,
    config: StepConfig,
    inputs: Inputs,
    *,
    store: ArtifactStore,
    run: RunRef,
    task: str | None = None,
    part: bool = False,
) -> dict[str, Manifest]:
    """Do a step's work, or find it done; returns its outputs by role.

    Args:
        part: the inputs are one group of several: that nothing is left of them is no mistake.

    Raises:
        UserError: bad input, config or surroundings; one clear line.
        LeaseLost: another attempt took the work over.
    """
    definition = find(name)
    by_role = _by_role(definition, inputs)
    board = Board(Page(), task or name, definition.name)
    info(board, run)
    events = EventLog(store, run, task or name, seen=board.take)
    log = Log({"run": run.key, "step": name})
    started, cache = time.monotonic(), ""
    workers = WorkerPool(name, getattr(config.execution, "workers", 1))  # before there is a thread: it forks
    with workers, _live_tracking(definition, store, events), _scraped(definition, config, board, log):
        try:
            _tell_start(definition, config, by_role, events)
            preflight(definition, config, by_role, store)
            with scratch() as workdir:
                ctx = StepContext(store, workdir, run, events, log, name, config, workers, part=part, board=board)
                done, cache = _perform(definition, config, by_role, ctx)
            manifests = {
                role: draft
                if isinstance(draft, Manifest)
                else _issue(definition, config, by_role, draft, store, done.made_in, time.monotonic() - started)
                for role, draft in done.outputs.items()
            }
            seconds = time.monotonic() - started
            events.step_finished(name, manifests, cache, seconds)
        except BaseException as failure:
            cache = ""
            events.step_failed(name, failure)
            raise
        finally:
            events.close()
            leave(board.page, run.key, board.labels, cache)
    log.info("done", cache=cache, seconds=round(seconds, 2))
    return manifests


def _live_tracking(definition: Definition, store: ArtifactStore, events: EventLog) -> AbstractContextManager[Any]:
    """MLflow follows a training while it runs, where there is a server to follow it; others wait for the exit task."""
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    if definition.nature == "training" and server.startswith(("http://", "https://")):
        return DeliveryThread(store, events.run, events.task, tracking_uri=server)
    return nullcontext()


def _scraped(definition: Definition, config: StepConfig, board: Board, log: Log) -> AbstractContextManager[Any]:
    """Prometheus scrapes the process that works: of a training on this machine that is a rank, which serves itself."""
    ranks_here = definition.nature == "training" and config.model_dump()["execution"]["scheduler"] != "kubernetes"
    return nullcontext() if ranks_here else served(board.page, log)


def _tell_start(
    definition: Definition, config: StepConfig, inputs: Mapping[str, Sequence[Manifest]], events: EventLog
) -> None:
    events.step_started(
        definition.name,
        definition.version,
        definition.identity(config),
        {role: [m.digest for m in manifests] for role, manifests in inputs.items()},
        options=config.model_dump(mode="json"),
        observed=observed() | _build(),
        budget_s=step_budgets(events.run.preset).get(definition.address),
    )


def preflight(
    definition: Definition, config: StepConfig, inputs: Mapping[str, Sequence[Manifest]], store: ArtifactStore
) -> None:
    """Everything that can be known before work is spent: the store, kinds of input, their blobs, disk, services."""
    store.check()  # four round trips: about 15 ms in a folder, 5 ms at a SeaweedFS beside us
    for role in definition.roles:
        for manifest in inputs[role.name]:
            if role.kinds and manifest.kind not in role.kinds:
                raise InputError(
                    f"{definition.name}: input {role.name!r} must be {' or '.join(role.kinds)}, "
                    f"but {manifest.digest[:12]} is {manifest.kind}"
                )
            if lacking := store.missing(manifest.shards):
                raise InputError(
                    f"{definition.name}: {manifest.kind} {manifest.digest[:12]} lacks {lacking[0].name} "
                    f"({len(lacking)} of {len(manifest.shards)} files) in {store.uri}; rerun {manifest.step}"
                )
    if definition.check:
        definition.check(config, *arguments(definition, inputs), store)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < MIN_FREE_BYTES:
        raise StoreError(
            f"{definition.name}: {free >> 20} MiB free in {tempfile.gettempdir()}; free some or set TMPDIR"
        )
    if definition.needs_registry:
        from tokenmill.tracking import registry_ready

        registry_ready(store)


def action_key(definition: Definition, config: StepConfig, inputs: Mapping[str, Sequence[Manifest]]) -> str:
    """The address of a step's result. A set of no records among those a role may have any number of is the same as none."""
    uncounted = {role.name for role in definition.roles if role.many and role.optional}
    contents = {
        role: [m.content for m in manifests if not (role in uncounted and m.counts.get("records") == 0)]
        for role, manifests in inputs.items()
    }
    held = {role: given for role, given in contents.items() if given}
    return sha256(canonical([definition.name, definition.version, definition.identity(config), held]))


class Done(NamedTuple):
    """A step's outputs, and what of the surroundings that made them a bill of materials asks: an action tells both."""

    outputs: dict[str, Draft]
    made_in: dict[str, str]


def lookup(store: ArtifactStore, key: str) -> Done | None:
    """What is recorded under a key, if every blob of the outputs is still there."""
    entry = store.get_action(key)
    if entry is None:
        return None
    drafts = {role: Draft.model_validate(body) for role, body in entry["outputs"].items()}
    if not store.missing(shard for draft in drafts.values() for shard in (*draft.shards, *draft.aside)):
        return Done(drafts, entry.get("made_in", {}))
    store.delete_action(key)  # half collected: do the work again
    return None


def _perform(
    definition: Definition, config: StepConfig, inputs: Mapping[str, Sequence[Manifest]], ctx: StepContext
) -> tuple[Done, Cache]:
    """The outputs, and whether they were a cache `hit`, a `miss`, or an `effect`."""
    if definition.nature == "effect":
        return Done(_call(definition, config, inputs, ctx), made_in(ctx.store)), "effect"
    key = action_key(definition, config, inputs)
    if found := lookup(ctx.store, key):
        return found, "hit"
    lease = acquire(
        ctx.store,
        key,
        ttl_s=LEASE_TTL_S,
        protects=[m.digest for manifests in inputs.values() for m in manifests],
        done=lambda: lookup(ctx.store, key) is not None,
        on_wait=lambda holder: ctx.log.info("waiting for another attempt", host=holder.host, pid=holder.pid),
    )
    if lease is None:
        return _adopted(ctx.store, key), "hit"
    with lease:
        ctx.key, ctx.lease = key, lease
        made = made_in(ctx.store)  # before the work: what cannot be recorded fails now, not when that is done
        done = Done(_call(definition, config, inputs, ctx), made)
        assert not any(isinstance(d, Manifest) for d in done.outputs.values()), "a step makes what it returns"
        lease.check()
        entry = {
            "step": definition.name,
            "version": definition.version,
            "outputs": {role: draft.body() for role, draft in done.outputs.items()},
            "made_in": done.made_in,
        }
        if not ctx.store.create_action(key, entry):  # first wins: adopt what is published
            done = lookup(ctx.store, key) or done
        _clear_work(ctx.store, key)
    return done, "miss"


def _adopted(store: ArtifactStore, key: str) -> Done:
    """What another attempt published while this one waited for it."""
    if found := lookup(store, key):
        return found
    raise StoreError(f"what another attempt made of action {key[:12]} was removed from {store.uri}: run it again")


def _clear_work(store: ArtifactStore, key: str) -> None:
    """Markers, checkpoints and specs have served; the lease itself is released by its holder."""
    for entry in list(store.backend.list(f"work/{key}/")):
        if not entry.key.startswith(f"work/{key}/lease/"):
            store.backend.delete(entry.key)


def _call(
    definition: Definition, config: StepConfig, inputs: Mapping[str, Sequence[Manifest]], ctx: StepContext
) -> dict[str, Draft]:
    if definition.nature == "training":
        from tokenmill.launch import launch_training

        return launch_training(definition, config, inputs, ctx)
    result = definition.function(config, *arguments(definition, inputs), ctx)
    return {"output": result} if isinstance(result, Draft) else dict(result)


def arguments(definition: Definition, inputs: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Positional arguments for a step's function: a list where the role takes many, else one manifest or None."""
    return [
        list(inputs.get(role.name, ())) if role.many else next(iter(inputs.get(role.name, ())), None)
        for role in definition.roles
    ]


def _by_role(definition: Definition, inputs: Inputs) -> dict[str, list[Manifest]]:
    roles = {role.name: role for role in definition.roles}
    if unknown := sorted(set(inputs) - set(roles)):
        raise ConfigError(f"{definition.name} takes {sorted(roles)}, not {unknown}")
    by_role: dict[str, list[Manifest]] = {}
    for name, role in roles.items():
        given = inputs.get(name)
        manifests = [given] if isinstance(given, Manifest) else list(given or [])
        if not manifests and not role.optional:
            raise InputError(f"{definition.name}: input {name!r} is missing")
        if len(manifests) > 1 and not role.many:
            raise InputError(f"{definition.name}: input {name!r} takes one artifact, got {len(manifests)}")
        by_role[name] = manifests
    return by_role


def _issue(
    definition: Definition,
    config: StepConfig,
    inputs: Mapping[str, Sequence[Manifest]],
    draft: Draft,
    store: ArtifactStore,
    made: Mapping[str, str],
    seconds: float,
) -> Manifest:
    manifest = Manifest.issue(
        draft,
        parents={role: tuple(m.digest for m in manifests) for role, manifests in inputs.items() if manifests},
        step=definition.name,
        version=definition.version,
        config=definition.identity(config),
        observed={**observed(), **made, "seconds": round(seconds, 3)},
    )
    store.put_manifest(manifest)
    return manifest


def made_in(store: ArtifactStore) -> dict[str, str]:
    """The environment of this process, which the store then has, and the image and commit that it is of."""
    return {"environment": recorded(store)} | _build()


def _build() -> dict[str, str]:
    held = {"image": os.environ.get("TOKENMILL_IMAGE", ""), "commit": os.environ.get("TOKENMILL_COMMIT", "")}
    return {name: value for name, value in held.items() if value}


def observed() -> dict[str, Any]:
    """Where and when this happens: recorded, never hashed."""
    seen = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
    }
    return {name: value for name, value in seen.items() if value}
