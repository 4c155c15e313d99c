"""The one call in a KFP component's body: artifacts in, step, artifacts out.

A KFP artifact is a *pointer*: its file holds the manifest's digest and its metadata the counts, because KFP's launcher would
drag a terabyte through pod disks. Reports and boards are the exception: KFP shows their page itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from tokenmill.config import Section
from tokenmill.errors import InputError, told_in_one_line
from tokenmill.manifest import Manifest
from tokenmill.steps.registry import configured, find
from tokenmill.steps.runner import run_step
from tokenmill.store import ArtifactStore, open_store
from tokenmill.tether import die_with_owner
from tokenmill.tracking import RunRef


class RunContext(Section):
    """What the opening task tells every other: which run, which preset, which overrides."""

    run: RunRef
    overrides: dict[str, Any] = Field(default_factory=dict, description="dotted fields → value")


def run_component(
    step: str,
    run: str,
    *,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    task: str | None = None,
    part: str = "",
    go: bool = True,
    otherwise: Mapping[str, Any] | None = None,
) -> dict[str, Manifest]:
    """Run one step for a KFP task; a user's mistake ends the process with one line and exit code 2.

    Args:
        step: name of the step, e.g. `curation.filter`.
        run: a `RunContext` as JSON, as the opening task gave it.
        inputs: role → KFP artifact, or a list of them; or a digest, which is how a loop's task is given its group.
        outputs: role → KFP artifact to write the pointer into.
        config: fields of the step's config that the pipeline itself decides (the sources, a round's number).
        task: name of this task where one step runs more than once in a pipeline.
        part: of a loop over several groups, what the task's name ends with; of its group nothing may be left.
        go: False past the stop of an unrolled loop: nothing is done, `otherwise` is handed on.
        otherwise: output role → input artifact that stands for it when not `go`; an output without one says so.
    """
    die_with_owner()
    with told_in_one_line():
        store, context = open_store(), RunContext.model_validate_json(run)
        if not go:
            for role, artifact in (outputs or {}).items():
                hand_on((otherwise or {}).get(role), artifact)
            return {}
        manifests = run_step(
            step,
            configured(find(step), context.run.preset, context.overrides, config),
            {role: read_pointers(store, artifact) for role, artifact in (inputs or {}).items()},
            store=store,
            run=context.run,
            task=f"{task or step}{part}",
            part=bool(part),
        )
        for role, artifact in (outputs or {}).items():
            if role not in manifests:
                raise InputError(f"{step} has no output {role!r}; it has {sorted(manifests)}")
            write_pointer(store, manifests[role], artifact)
    return manifests


def read_pointers(store: ArtifactStore, artifact: Any) -> list[Manifest]:
    """The manifests that one KFP artifact, or a list of them, points to; a digest stands for itself.

    What a task past its stop left is none: an optional input may be of such a task.
    """
    if artifact is None:
        return []
    if isinstance(artifact, str):
        return [store.get_manifest(artifact)]
    if isinstance(artifact, list):
        return [manifest for one in artifact for manifest in read_pointers(store, one)]
    pointer = Path(artifact.path).read_bytes()
    return [] if pointer == NOT_RUN else [store.get_manifest(orjson.loads(pointer)["digest"])]


def write_pointer(store: ArtifactStore, manifest: Manifest, artifact: Any) -> None:
    """Write the pointer file and the metadata that the KFP UI shows."""
    pages = manifest.shards if manifest.kind in ("report", "board") else ()
    page = next((shard for shard in pages if shard.name.endswith(".html")), None)
    pointer = {"digest": manifest.digest, "store": store.uri, "kind": manifest.kind}
    path = Path(artifact.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(store.bytes_of(page) if page else orjson.dumps(pointer))
    artifact.metadata.update(pointer | {f"count.{name}": value for name, value in manifest.counts.items()})


NOT_RUN = b"<p>Not run: the pipeline stopped before this task.</p>\n"


def hand_on(given: Any, artifact: Any) -> None:
    """Let an output be an input, or say that there is nothing it could be."""
    path = Path(artifact.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(Path(given.path).read_bytes() if given else NOT_RUN)
    artifact.metadata.update(given.metadata if given else {})
