"""A version in the model registry, and a pin in the store that keeps everything it was made of; of what the gate refused,
why it did."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tokenmill.deployment.alias import (
    CHECKS_TAG,
    FAILED_TAG,
    PASSED,
    POLICY_TAG,
    REFUSED,
    STATUS_TAG,
    VERDICT_TAG,
    actor,
    move,
)
from tokenmill.deployment.attestation import attestation_pin
from tokenmill.deployment.config import RegisterConfig
from tokenmill.deployment.release import SBOM, policy_of
from tokenmill.errors import InputError
from tokenmill.lineage import upstream
from tokenmill.manifest import Draft, Manifest, canonical, sha256
from tokenmill.steps import StepContext, effect
from tokenmill.store.backend import NotFoundError
from tokenmill.tracking import Registry
from tokenmill.tracking.connection import MANIFEST_TAG
from tokenmill.tracking.registry import registered_name

REGISTRATION = "registration.json"
REJECTED = "rejected"
"""The one alias that what a gate refused may have."""


@effect(
    "deployment.register",
    version=5,
    needs_registry=True,
    kinds={"model": ("release", "weights"), "verdict": "verdict", "attestation": "attestation"},
)
def register(
    config: RegisterConfig, model: Manifest, verdict: Manifest | None, attestation: Manifest | None, ctx: StepContext
) -> Draft:
    """Register a release, or the weights of a base or reward model; the same digest is the same version for ever.

    A release is registered only with the verdict that let it pass; weights also with one that refused
    them. The pins keep it, its attestation, its ancestors and all their blobs from garbage collection; of what was refused
    only the verdict and what it was given, so that retention frees the weights.
    """
    tags = {"tokenmill.role": config.role, "tokenmill.kind": model.kind} | _origin_tags(model, ctx)
    if model.kind == "release":
        tags |= _gate_tags(model, verdict, ctx)
    if attestation:
        tags |= _attestation_tags(model, attestation)
    registry = Registry(ctx.store)
    name = config.name or registered_name(config.role, ctx.run)
    if verdict and model.kind == "weights":
        tags |= _judged_tags(model, verdict, ctx)
    refused = tags.get(STATUS_TAG) == REFUSED
    if refused and config.alias not in (None, REJECTED):
        raise InputError(
            f"the gate refused {model.digest[:12]}: it gets the alias {REJECTED!r} or none, not {config.alias!r}"
        )
    version = registry.register_model(name, model, run=ctx.run, tags=tags, kept=not refused)
    if not refused:
        ctx.store.pin(_pin(name, version), model.digest)
    _let_go_of_refused(registry, name)
    if attestation:
        ctx.store.pin(attestation_pin(attestation), attestation.digest)
    if config.alias:
        who = f"{actor()}, run {ctx.run.key}"
        move(registry, name, config.alias, version, action="registered", why="it was registered", who=who)
    ctx.log.info("registered", name=name, version=version, alias=config.alias or "none")
    value = {
        "name": name,
        "version": version,
        "alias": config.alias,
        "model": model.digest,
        "kind": model.kind,
        "content": model.content,
        "verdict": verdict.content if verdict else None,
    }
    return ctx.write_json("registration", REGISTRATION, value, counts={"version": int(version)})


def _pin(name: str, version: str) -> str:
    return f"models/{name}/{version}"


def _let_go_of_refused(registry: Registry, name: str) -> None:
    """Of every version that a gate refused only the verdict and its evidence stay pinned; once they were pinned whole."""
    for version, tags in registry.tagged_versions(name, STATUS_TAG, REFUSED):
        with suppress(NotFoundError):  # no verdict is left that could stand for the weights
            registry.store.pin(f"verdicts/{name}/{version}", tags[VERDICT_TAG], generations=1)
            for pin in (version, tags[MANIFEST_TAG][:16]):
                registry.store.unpin(_pin(name, pin))


def _attestation_tags(release: Manifest, attestation: Manifest) -> dict[str, str]:
    if release.digest not in attestation.parents.get("release", ()):
        raise InputError(f"attestation {attestation.digest[:12]} is about another release than {release.digest[:12]}")
    by = " ".join(attestation.facts["signed_by"])
    return {"release.sbom": attestation.shard(SBOM).content, "release.signed_by": by or "nobody"}


def _origin_tags(model: Manifest, ctx: StepContext) -> dict[str, str]:
    """What a version's page says of where it comes from. Its own lineage is `tokenmill.manifest`: a Merkle root."""
    graph = upstream(ctx.store, model.digest)
    sources = sorted({node.content for node in graph.nodes.values() if node.kind == "sources"})
    trained = [graph.nodes[edge.parent] for edge in graph.parents(model.digest) if edge.role == "weights"][:1]
    tags = {"data.digest": sha256(canonical(sources))} if sources else {}
    for name, made in zip(("tokenmill", "training"), (model, *trained), strict=False):
        tags |= {f"{name}.{what}": str(made.observed[what]) for what in ("commit", "image") if what in made.observed}
    return tags


def _gate_tags(release: Manifest, verdict: Manifest | None, ctx: StepContext) -> dict[str, str]:
    pinned = ctx.read_json(release, "release.json")
    if verdict is None or pinned["verdict"]["content"] != verdict.content:
        raise InputError(f"release {release.digest[:12]} is registered with the verdict that it pins: give that one")
    judged = ctx.read_json(verdict, "verdict.json")
    if not judged["passed"]:
        raise InputError(f"the gate did not pass {pinned['name']}: it is not registered")
    return {STATUS_TAG: PASSED} | _verdict_tags(verdict, judged)


def _verdict_tags(verdict: Manifest, judged: Mapping[str, Any]) -> dict[str, str]:
    return {VERDICT_TAG: verdict.digest, POLICY_TAG: policy_of(verdict), CHECKS_TAG: str(len(judged["checks"]))}


def _judged_tags(weights: Manifest, verdict: Manifest, ctx: StepContext) -> dict[str, str]:
    judged = ctx.read_json(verdict, "verdict.json")
    if judged["model"] != weights.content:
        raise InputError(f"the verdict is about another model ({judged['model'][:12]}) than {weights.digest[:12]}")
    failed = ", ".join(check["name"] for check in judged["checks"] if not check["passed"])
    status = {STATUS_TAG: PASSED if judged["passed"] else REFUSED}
    return status | _verdict_tags(verdict, judged) | ({FAILED_TAG: failed[:4000]} if failed else {})
