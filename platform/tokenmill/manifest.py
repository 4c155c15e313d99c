"""Manifests: the small JSON that describes one artifact, and its two digests.

`content` says *what an artifact is*: a hash over its shards' uncompressed records or raw tensors, never over compressed
files, headers, places or times. `digest` says *how this run came to it*: content, facts, the parents' digests, step, version
and identity config; a Merkle tree back to the raw sources. What was merely *observed* (times, host, image) is hashed nowhere.
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tokenmill.errors import CorruptError, InputError

SCHEMA_VERSION = "1.0"
JSON = Any  # a JSON value


def canonical(value: JSON) -> bytes:
    """The one JSON encoding that digests are taken over: sorted keys, no white space, UTF-8."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(Frozen):
    """One stored file of an artifact.

    `content` is independent of how the bytes are stored; `blob` is the sha256 of the stored bytes, for transport.
    """

    name: str = Field(description="stable relative name, e.g. type=web/lang=en/part-00000.jsonl.zst")
    blob: str = Field(description="sha256 of the stored bytes")
    content: str = Field(description="hash over uncompressed records, raw tensors or raw bytes")
    size: int = Field(description="stored bytes")
    records: int = Field(0, description="records in the shard; 0 where the idea does not apply")


class Draft(Frozen):
    """What a step hands back: what an artifact is, without how it came to be."""

    kind: str
    shards: tuple[Shard, ...]
    counts: dict[str, int] = Field(default_factory=dict, description="records, tokens, bytes… of this artifact")
    dropped: dict[str, int] = Field(default_factory=dict, description="reason → records the step dropped or rejected")
    aside: tuple[Shard, ...] = Field((), description="dropped/ and rejected/ records with their reasons; not content")
    facts: dict[str, JSON] = Field(
        default_factory=dict, description="what lineage shows and `digest` covers but `content` does not, e.g. licences"
    )

    @cached_property
    def content(self) -> str:
        return sha256(canonical([self.kind, sorted((s.name, s.content) for s in self.shards)]))

    @property
    def blobs(self) -> set[str]:
        """Every stored blob this artifact needs."""
        return {shard.blob for shard in (*self.shards, *self.aside)}

    def body(self) -> dict[str, JSON]:
        """The draft as JSON: what the action cache stores."""
        return self.model_dump(mode="json", include=set(Draft.model_fields))


class Manifest(Draft):
    """A draft issued by one run of a step: with its parents, and therefore with its lineage."""

    schema_version: str = SCHEMA_VERSION
    parents: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="role → digests of the inputs")
    step: str
    version: int
    config: dict[str, JSON] = Field(default_factory=dict, description="identity config, defaults left out")
    observed: dict[str, JSON] = Field(default_factory=dict, description="times, host, image…: hashed nowhere")

    @classmethod
    def issue(
        cls,
        draft: Draft,
        *,
        parents: Mapping[str, tuple[str, ...]],
        step: str,
        version: int,
        config: Mapping[str, JSON],
        observed: Mapping[str, JSON] | None = None,
    ) -> Self:
        body = {name: getattr(draft, name) for name in Draft.model_fields}
        return cls(
            **body,
            parents=dict(parents),
            step=step,
            version=version,
            config=dict(config),
            observed=dict(observed or {}),
        )

    @cached_property
    def digest(self) -> str:
        return sha256(
            canonical(
                {
                    "content": self.content,
                    "facts": self.facts,
                    "counts": self.counts,
                    "dropped": self.dropped,
                    "parents": {role: list(digests) for role, digests in self.parents.items()},
                    "step": self.step,
                    "version": self.version,
                    "config": self.config,
                }
            )
        )

    @property
    def parent_digests(self) -> list[str]:
        return [digest for digests in self.parents.values() for digest in digests]

    def shard(self, name: str) -> Shard:
        """The shard of that name, or `InputError`."""
        for shard in self.shards:
            if shard.name == name:
                return shard
        raise InputError(
            f"{self.kind} {self.digest[:12]} has no file {name!r}; it has {[s.name for s in self.shards][:8]}"
        )

    def to_json(self) -> bytes:
        """Stored form; the two digests ride along so that a reader can verify them."""
        return canonical(self.model_dump(mode="json") | {"content": self.content, "digest": self.digest})

    @classmethod
    def from_json(cls, data: bytes, *, expected: str | None = None) -> Self:
        """Read and verify a stored manifest.

        Raises:
            CorruptError: its bytes do not give the digest it names (or `expected`).
            InputError: it was written by a newer major version of the schema.
        """
        fields = orjson.loads(data)
        major = int(str(fields.get("schema_version", "0")).split(".")[0])
        if major > int(SCHEMA_VERSION.split(".")[0]):
            raise InputError(
                f"manifest schema {fields['schema_version']} is newer than this TokenMill reads; upgrade it"
            )
        stated, content = fields.pop("digest", None), fields.pop("content", None)
        manifest = cls.model_validate(fields)
        if manifest.content != content or manifest.digest != stated or (expected and manifest.digest != expected):
            raise CorruptError(f"manifest {expected or stated} does not match its digest; restore it or rerun its step")
        return manifest

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [s.name for s in self.shards]
        if len(set(names)) != len(names):
            raise ValueError(f"duplicate shard names in a {self.kind}")
        return self
