"""Promotion: an alias moves to what was served well, and back from what was not."""

from dataclasses import dataclass
from typing import Literal

from tokenmill.deployment.config import PromoteConfig
from tokenmill.deployment.deploy import DEPLOYMENT
from tokenmill.deployment.register import REGISTRATION
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import StepContext, effect
from tokenmill.tracking import Registry
from tokenmill.tracking.connection import one_line_errors

PROMOTION = "promotion.json"
REPLACED = "tokenmill.replaced.{alias}"
"""Tag of a version: which one it replaced under an alias, and therefore the way back."""
Action = Literal["promoted", "kept", "rolled back"]


@effect(
    "deployment.promote",
    version=1,
    needs_registry=True,
    kinds={"registration": "registration", "deployment": "deployment"},
)
def promote(config: PromoteConfig, registration: Manifest, deployment: Manifest, ctx: StepContext) -> Draft:
    """Move the alias to a version whose smoke test passed. Where it failed and the alias stands there, move it back."""
    registered, smoke = ctx.read_json(registration, REGISTRATION), ctx.read_json(deployment, DEPLOYMENT)
    if smoke["release"] != registered["model"]:
        raise InputError("the deployment is of another release than the registration: deploy what is registered")
    name, version, alias = registered["name"], registered["version"], config.alias
    registry = Registry(ctx.store)
    now = registry.alias_version(name, alias)
    former = replaced_by(registry, name, version, alias)
    move = decide(now, version, former, smoke, config.needs_smoke_test)
    if move.action == "promoted" and now:
        remember(registry, name, version, alias, replaced=now)
    if move.target and move.target != now:
        registry.set_alias(name, alias, move.target)
    elif move.target != now:
        with one_line_errors(registry.uri):
            registry.client.delete_registered_model_alias(name, alias)
    ctx.log.info("alias", name=name, alias=alias, version=move.target or "none", action=move.action, why=move.why)
    value = {
        "name": name,
        "alias": alias,
        "before": now,
        "version": move.target,
        "action": move.action,
        "why": move.why,
    }
    return ctx.write_json("promotion", PROMOTION, value, counts={"promoted": int(move.target == version)})


@dataclass(frozen=True)
class Move:
    """Where an alias goes, and why."""

    target: str | None
    action: Action
    why: str


def decide(now: str | None, version: str, former: str | None, smoke: dict[str, object], needs_smoke_test: bool) -> Move:
    """Where the alias should stand.

    Args:
        now: version that it stands at.
        version: version that was tried.
        former: version that the tried one replaced under this alias, if it did.
        smoke: what the deployment found.
        needs_smoke_test: whether an untried version may not be promoted.
    """
    if smoke["ok"] or (not smoke["served"] and not needs_smoke_test):
        if now == version:
            return Move(now, "kept", "it stands there already")
        return Move(version, "promoted", "the smoke test passed" if smoke["ok"] else "not tried, as configured")
    if smoke["served"] and now == version:
        return Move(former, "rolled back", str(smoke["reason"]))
    return Move(now, "kept", str(smoke["reason"]))


def replaced_by(registry: Registry, name: str, version: str, alias: str) -> str | None:
    """The version that `version` replaced under an alias."""
    with one_line_errors(registry.uri):
        return registry.client.get_model_version(name, version).tags.get(REPLACED.format(alias=alias))


def remember(registry: Registry, name: str, version: str, alias: str, *, replaced: str) -> None:
    """Write down the way back, before the alias moves."""
    with one_line_errors(registry.uri):
        registry.client.set_model_version_tag(name, version, REPLACED.format(alias=alias), replaced)
