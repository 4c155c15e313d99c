"""Promotion: an alias moves to what was served well, and back from what was not."""

from dataclasses import dataclass
from typing import Literal

from tokenmill.deployment.alias import actor, move, way_back
from tokenmill.deployment.config import PromoteConfig
from tokenmill.deployment.deploy import DEPLOYMENT
from tokenmill.deployment.register import REGISTRATION
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import StepContext, effect
from tokenmill.tracking import Registry

PROMOTION = "promotion.json"
Action = Literal["promoted", "kept", "rolled back"]


@effect(
    "deployment.promote",
    version=3,
    needs_registry=True,
    kinds={"registration": "registration", "deployment": "deployment"},
)
def promote(config: PromoteConfig, registration: Manifest, deployment: Manifest, ctx: StepContext) -> Draft:
    """Move the alias to a version whose smoke test passed. Where it failed and the alias stands there, move it back."""
    registered, smoke = ctx.read_json(registration, REGISTRATION), ctx.read_json(deployment, DEPLOYMENT)
    if smoke["release"] != registered["model"]:
        raise InputError("the deployment is of another release than the registration: deploy what is registered")
    name, version = registered["name"], registered["version"]
    registry = Registry(ctx.store)
    now = registry.alias_version(name, config.alias)
    former = way_back(registry, name, config.alias, version)
    wanted = decide(now, version, former, smoke, config.needs_smoke_test)
    if wanted.action != "kept":
        who = f"{actor()}, run {ctx.run.key}"
        seen = now if wanted.action == "rolled back" else ...
        move(registry, name, config.alias, wanted.target, action=wanted.action, why=wanted.why, who=who, expected=seen)
    ctx.log.info("alias", name=name, alias=config.alias, version=wanted.target or "none", action=wanted.action)
    value = {
        "name": name,
        "alias": config.alias,
        "before": now,
        "version": wanted.target,
        "action": wanted.action,
        "why": wanted.why,
    }
    return ctx.write_json("promotion", PROMOTION, value, counts={"promoted": int(wanted.target == version)})


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
        if smoke.get("back"):
            return Move(version, "rolled back", "it is served again, and the smoke test passed")
        return Move(version, "promoted", "the smoke test passed" if smoke["ok"] else "not tried, as configured")
    if smoke["served"] and now == version and not smoke.get("still"):  # with other values it goes on being served
        return Move(former, "rolled back", str(smoke["reason"]))
    return Move(now, "kept", str(smoke["reason"]))
