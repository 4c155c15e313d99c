"""Aliases of a registered model: they move here and nowhere else, and every move leaves a record.

A record is written before its alias moves, so no move is without one. Records are numbered files in the store, each made
by exclusive creation and holding the sha256 of the one before: a line that was taken out or written anew shows. MLflow
gets a copy as a tag of the registered model, for who looks there.
"""

import getpass
import hashlib
import os
import re
import socket
from datetime import UTC, datetime
from types import EllipsisType
from typing import Literal

import orjson
from pydantic import Field, ValidationError

from tokenmill.errors import CorruptError, InputError
from tokenmill.manifest import Frozen, canonical, sha256
from tokenmill.store import ArtifactStore, acquire
from tokenmill.store.backend import Backend
from tokenmill.store.layout import audit_key
from tokenmill.tracking import Registry
from tokenmill.tracking.connection import MANIFEST_TAG

AUDIT_TAG = "tokenmill.audit"
VERDICT_TAG = "gate.verdict"
LOCK_S = 30.0
"""How long a process that moves an alias may be silent before another one takes its place."""
LONGEST_REASON = 1000
Action = Literal["registered", "promoted", "rolled back"]
_VERSION = re.compile(r"^(?:models:/)?(?P<name>[^/@]+)(?:@|/)(?P<version>[^/@]+)$")


class Record(Frozen):
    """One move of one alias."""

    number: int = Field(description="1 is a model's first")
    time: str = Field(description="UTC")
    who: str = Field(description="as the mover's environment says: nothing proves it")
    model: str
    alias: str
    action: Action
    before: str | None = Field(description="version that it stood at")
    after: str | None = Field(description="version that it moved to; null: the alias is gone")
    why: str
    forced: bool = Field(False, description="without a passed verdict, by --force")
    release: str | None = Field(description="manifest of `after`")
    verdict: str | None = Field(description="manifest of the gate's verdict that let it pass")
    previous: str = Field(description="sha256 of the record before; empty for the first")


class AuditLog:
    """The records of one registered model, oldest first."""

    def __init__(self, backend: Backend, identity: str, model: str):
        self.backend, self.identity, self.model = backend, identity, model

    def records(self) -> list[Record]:
        """All of them.

        Raises:
            CorruptError: one is missing or was written anew.
        """
        found, previous = list[Record](), ""
        keys = sorted(entry.key for entry in self.backend.list(audit_key(self.identity, self.model, None)))
        for number, key in enumerate(keys, 1):
            data = self.backend.get(key)
            try:
                record = Record.model_validate(orjson.loads(data))
            except (ValueError, ValidationError):
                raise CorruptError(f"{self.backend.uri}/{key} is no record of an alias: restore it") from None
            if key != audit_key(self.identity, self.model, number) or record.previous != previous:
                raise CorruptError(f"{self.backend.uri}/{key} does not follow the record before it: restore that")
            found.append(record)
            previous = hashlib.sha256(data).hexdigest()
        return found

    def append(self, record: Record) -> None:
        if not self.backend.create(audit_key(self.identity, self.model, record.number), canonical(record.model_dump())):
            raise CorruptError(
                f"{self.model}: record {record.number} was written by another hand: look, then try again"
            )


def log_of(registry: Registry, model: str) -> AuditLog:
    """By the model's own identity: an address changes, through a port-forward or after a restore."""
    return AuditLog(registry.store.backend, registry.identity(model), model)


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
) -> Record | None:
    """Move an alias to a version, or take it away; says what was written down, None if it stands there already.

    Args:
        expected: where it must stand, for whoever decided by that; `...`: wherever.

    Raises:
        InputError: it is promoted to a version that no gate let pass, and nobody forced it; or it stands elsewhere.
    """
    log = log_of(registry, model)
    lock = acquire(registry.store, f"alias-{log.identity}", ttl_s=LOCK_S)
    assert lock  # nothing says that the work is done
    with lock:
        now = registry.alias_version(model, alias)
        if now == to:
            return None
        if expected not in (..., now):
            stood, stands = expected or "none", now or "none"
            raise InputError(
                f"{model}@{alias} went from version {stood} to {stands} meanwhile: see `tokenmill audit {model}`"
            )
        tags = registry.version_tags(model, to) if to else {}
        verdict = tags.get(VERDICT_TAG)
        if action == "promoted" and to and not forced:
            verdict = passed_verdict(registry.store, f"{model} version {to}", tags)
        earlier = log.records()
        record = Record(
            number=len(earlier) + 1,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            who=who or actor(),
            model=model,
            alias=alias,
            action=action,
            before=now,
            after=to,
            why=why[:LONGEST_REASON],
            forced=forced,
            release=tags.get(MANIFEST_TAG),
            verdict=verdict,
            previous=sha256(canonical(earlier[-1].model_dump())) if earlier else "",
        )
        lock.check()
        log.append(record)
        registry.tag_model(model, f"{AUDIT_TAG}.{record.number:06d}", canonical(record.model_dump()).decode())
        registry.set_alias(model, alias, to)
    return record


def passed_verdict(store: ArtifactStore, what: str, tags: dict[str, str]) -> str:
    """Digest of the verdict that let a version pass, read from the store: a tag alone vouches for nothing.

    Raises:
        InputError: there is none, or it is not about this version's release.
    """
    refused = f"{what} is not promoted: "
    if MANIFEST_TAG not in tags:
        raise InputError(f"{refused}it was not registered by TokenMill")
    model = store.get_manifest(tags[MANIFEST_TAG])
    if model.kind != "release" or VERDICT_TAG not in tags:
        raise InputError(
            f"{refused}no gate judged it (it is of kind {model.kind}). --force --reason WHY does it anyway"
        )
    verdict = store.get_manifest(tags[VERDICT_TAG])
    pinned = orjson.loads(store.bytes_of(model.shard("release.json")))
    if pinned["verdict"]["content"] != verdict.content:
        raise InputError(f"{refused}the verdict {verdict.digest[:12]} that it is tagged with is about another release")
    if not orjson.loads(store.bytes_of(verdict.shard("verdict.json")))["passed"]:
        raise InputError(f"{refused}the gate did not pass it (verdict {verdict.digest[:12]})")
    return verdict.digest


def way_back(registry: Registry, model: str, alias: str, version: str) -> str | None:
    """The version that `version` took the alias from, when it last came there other than by a way back."""
    for record in reversed(log_of(registry, model).records()):
        if record.alias == alias and record.after == version and record.action != "rolled back":
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
