"""Which run it is that work belongs to, and whose: what tasks hand on, and the store keeps beside the events."""

import os
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from tokenmill.errors import ConfigError, InputError
from tokenmill.store import ArtifactStore

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""What a run's key and a task's name look like: they are parts of keys in the store."""
TEAM = "TOKENMILL_TEAM"
"""Environment: whose runs these are. Experiments and registered models carry its name; a store's prefix is its own."""
_TEAM = r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$"


def team() -> str:
    """The team of this process; empty where there are none.

    Raises:
        ConfigError: its name could not be a namespace's.
    """
    name = os.environ.get(TEAM, "")
    if name and not re.match(_TEAM, name):
        raise ConfigError(f"{TEAM}={name!r}: a team is named like a namespace, in small letters, digits and hyphens")
    return name


class RunRef(BaseModel):
    """Which run this is: handed from task to task as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(pattern=NAME, description="the run's identity: KFP's job id, or a generated one")
    name: str = Field(description="for people, e.g. lifecycle")
    preset: str = Field("", description="preset the run was made from")
    tags: dict[str, str] = Field(default_factory=dict, description="kfp.run_id, k8s.namespace, project…")

    @classmethod
    def new(cls, name: str, preset: str = "", tags: Mapping[str, str] | None = None) -> Self:
        """A run with a generated key that sorts by time."""
        key = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        return cls(key=key, name=name, preset=preset, tags=cls.owned(tags or {}))

    @staticmethod
    def owned(tags: Mapping[str, str]) -> dict[str, str]:
        """`tags`, and whose run it is."""
        return dict(tags) | ({"team": name} if (name := team()) else {})

    @property
    def team(self) -> str:
        """Whose run it is; empty where there are no teams."""
        return self.tags.get("team", "")


def has_run(store: ArtifactStore, key: str) -> bool:
    return bool(re.match(NAME, key)) and store.backend.exists(run_key(key))


def read_run(store: ArtifactStore, key: str) -> RunRef:
    """The run's reference, or `InputError` when the store has no such run."""
    if not has_run(store, key):
        known = sorted({entry.key.split("/")[1] for entry in store.backend.list("runs/")})
        raise InputError(f"no run {key!r} in {store.uri}; it has {', '.join(known[-5:]) or 'none'}")
    return RunRef.model_validate_json(store.backend.get(run_key(key)))


def run_key(run: str) -> str:
    """Where the reference of a run lies in the store."""
    return f"runs/{run}/run.json"
