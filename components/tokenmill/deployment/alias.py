"""Aliases of a registered model: they move here and nowhere else, and every move leaves its records."""

import getpass
import os
import re
import socket
from contextlib import suppress
from types import EllipsisType

import orjson

from tokenmill.deployment.audit import Action, AuditLog, Intent, Record
from tokenmill.deployment.release import policy_of
from tokenmill.errors import InputError, UserError
from tokenmill.manifest import Manifest
from tokenmill.store import ArtifactStore, acquire
from tokenmill.tracking import Registry
from tokenmill.tracking.connection import MANIFEST_TAG

STATUS_TAG, VERDICT_TAG, FAILED_TAG = "gate.status", "gate.verdict", "gate.failed"
POLICY_TAG, CHECKS_TAG = "gate.policy", "gate.checks"
PASSED, REFUSED = "passed", "refused"
LOCK_S = 30.0
"""How long a process that moves an alias may be silent before another one takes its place."""
LONGEST_REASON = 1000
"""Characters: MLflow keeps 5,000 of a tag, and the rest of a record is short."""
_VERSION = re.compile(r"^(?:models:/)?(?P<name>[^/@]+)(?:@|/)(?P<version>[^/@]+)$")


def move(
    registry: Registry,
    model: str,
    alias: str,
    to: str | None,
    *,
    action: Action,
    why: str,
    who: str = "",
    forced: bool = False,
    expected: str | EllipsisType | None = ...,
    policy: str | EllipsisType | None = ...,
) -> Record | None:
    """Move an alias to a version, or take it away; says what was written down, None if it stands there already.

    Args:
        expected: where it must stand, for whoever decided by that; `...`: wherever.
        policy: the gate's, or the start of it, that must have judged a version that is promoted; None: that of the version
            which stands there, if a gate judged it; `...`: any.

    Raises:
        InputError: it is promoted to a version that no gate let pass, and nobody forced it; or it stands elsewhere.
    """
    log = AuditLog(registry, model)
    lock = acquire(registry.store, f"alias-{log.identity}", ttl_s=LOCK_S)
    assert lock  # nothing says that the work is done
    with lock:
        log.settle()
        now = registry.alias_version(model, alias)
        if now == to:
            return None
        _require_standing(f"{model}@{alias}", now, expected)
        release, verdict, judged_by = _evidence(registry, model, to, gated=action == "promoted" and not forced)
        if action == "promoted" and not forced and policy is not ...:
            _require_policy(registry, f"{model}@{alias}", now, judged_by, policy)
        intent = Intent(
            who=who or actor(),
            model=model,
            alias=alias,
            action=action,
            before=now,
            after=to,
            why=why[:LONGEST_REASON],
            forced=forced,
            release=release,
            verdict=verdict,
            policy=judged_by,
        )
        lock.check()
        return _made(log, intent)


def _require_standing(what: str, now: str | None, expected: str | EllipsisType | None) -> None:
    if expected not in (..., now):
        model = what.partition("@")[0]
        raise InputError(
            f"{what} went from version {expected or 'none'} to {now or 'none'} meanwhile: see `tokenmill audit {model}`"
        )


def _evidence(
    registry: Registry, model: str, version: str | None, *, gated: bool
) -> tuple[str | None, str | None, str | None]:
    """A version's release, its verdict and the policy of that; of a `gated` move the verdict passed, or `InputError`."""
    if version is None:
        return None, None, None
    tags = registry.version_tags(model, version)
    if not gated:
        return tags.get(MANIFEST_TAG), tags.get(VERDICT_TAG), tags.get(POLICY_TAG)
    verdict = passed_verdict(registry.store, f"{model} version {version}", tags)
    return tags.get(MANIFEST_TAG), verdict.digest, policy_of(verdict)


def _require_policy(registry: Registry, what: str, now: str | None, judged_by: str | None, wanted: str | None) -> None:
    if wanted is None and now:
        wanted = _policy_at(registry, what.partition("@")[0], now)
    if wanted is not None and not (judged_by or "").startswith(wanted):
        raise InputError(
            f"{what} is not promoted: the gate judged it by policy {judged_by or 'none'}, not by {wanted}. "
            f"Where that is meant: --gate-policy {(judged_by or '')[:12]}"
        )


def _policy_at(registry: Registry, model: str, version: str) -> str | None:
    """By which policy a version was judged, read from its verdict in the store; None if no gate did."""
    digest = registry.version_tags(model, version).get(VERDICT_TAG)
    if digest is None or not registry.store.has_manifest(digest):
        return None
    return policy_of(registry.store.get_manifest(digest))


def _made(log: AuditLog, intent: Intent) -> Record:
    """Move the alias between the record of its intent and the record of what came of it."""
    try:
        log.begin(intent)
        log.registry.set_alias(intent.model, intent.alias, intent.after)
    except UserError:
        with suppress(UserError):  # what took the move may take this too: then whoever moves an alias next settles it
            log.settle()
        raise
    ended = log.settle()
    assert ended
    if ended.state != "moved":
        raise InputError(f"{intent.model}@{intent.alias} was moved away at once: somebody moves it past TokenMill")
    return ended


def passed_verdict(store: ArtifactStore, what: str, tags: dict[str, str]) -> Manifest:
    """The verdict that let a version pass, read from the store: a tag alone vouches for nothing.

    Raises:
        InputError: there is none, or it is not about this version's release, or no gate made it.
    """
    refused = f"{what} is not promoted: "
    if MANIFEST_TAG not in tags:
        raise InputError(f"{refused}it was not registered by TokenMill")
    require_not_refused(what, tags)
    model = store.get_manifest(tags[MANIFEST_TAG])
    if model.kind != "release" or VERDICT_TAG not in tags:
        raise InputError(
            f"{refused}no gate judged it (it is of kind {model.kind}). --force --reason WHY does it anyway"
        )
    verdict = store.get_manifest(tags[VERDICT_TAG])
    policy_of(verdict)
    pinned = orjson.loads(store.bytes_of(model.shard("release.json")))
    if pinned["verdict"]["content"] != verdict.content:
        raise InputError(f"{refused}the verdict {verdict.digest[:12]} that it is tagged with is about another release")
    if not orjson.loads(store.bytes_of(verdict.shard("verdict.json")))["passed"]:
        raise InputError(f"{refused}the gate did not pass it (verdict {verdict.digest[:12]})")
    return verdict


def require_not_refused(what: str, tags: dict[str, str]) -> None:
    """Of what the gate refused nothing need be left to look at but its verdict: its tags decide, before anything is read."""
    if tags.get(STATUS_TAG) == REFUSED:
        raise InputError(
            f"{what} is what the gate refused ({tags.get(FAILED_TAG)}): it is neither promoted nor deployed. "
            f"verdict.md of {tags.get(VERDICT_TAG, '')[:12]} says what was wanted"
        )


def way_back(registry: Registry, model: str, alias: str, version: str) -> str | None:
    """The version that `version` took the alias from, when it last came there other than by a way back."""
    for record in reversed(AuditLog(registry, model).moves()):
        led_here = record.alias == alias and record.after == version and record.state != "not moved"
        if led_here and record.action != "rolled back":
            return record.before
    return None


def roll_back(registry: Registry, model: str, alias: str, *, why: str, who: str = "") -> Record:
    """Move an alias back to the version that stood there before.

    Raises:
        InputError: there is nothing to go back from, or to.
    """
    now = registry.alias_version(model, alias)
    if now is None:
        raise InputError(f"{model} has no alias {alias!r} to roll back")
    to = way_back(registry, model, alias, now)
    if to is None:
        raise InputError(f"{model}@{alias} is version {now}, and nothing stood there before it")
    record = move(registry, model, alias, to, action="rolled back", why=why, who=who, expected=now)
    if record is None:
        raise InputError(f"{model}@{alias} was moved to version {to} by somebody else just now: see `tokenmill audit`")
    return record


def named_version(registry: Registry, reference: str) -> tuple[str, str]:
    """`chat@3`, `chat@candidate` or `models:/chat/3` → model and version."""
    match = _VERSION.match(reference)
    if not match:
        raise InputError(f"{reference!r} is no version of a model: expected MODEL@VERSION, as chat@3 or chat@candidate")
    name, version = match["name"], match["version"]
    if not version.isdigit():
        found = registry.alias_version(name, version)
        if found is None:
            raise InputError(f"{name} has no alias {version!r}: see `tokenmill audit {name}`")
        version = found
    registry.version_tags(name, version)  # it exists, or this says so
    return name, version


def actor() -> str:
    """Who does this, as well as it can be known: the registry's user, else the system's, and the host."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    if not user:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user need not have a name
            user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
