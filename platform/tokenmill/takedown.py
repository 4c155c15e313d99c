"""Takedowns: a document that may no longer be used, and every model that saw it.

A tombstone is state of the world, so no step reads it: registering sources (an effect) lists the taken-down documents beside
the files they were read from, and so the cache moves exactly where one is concerned.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

from pydantic import BaseModel, ConfigDict

from tokenmill.errors import InputError
from tokenmill.lineage import DocumentTrace, find_document
from tokenmill.records import read_jsonl
from tokenmill.store import ArtifactStore
from tokenmill.store.layout import TOMBSTONES, tombstone_key


class SeenBy(BaseModel):
    """A model that a document reached."""

    model_config = ConfigDict(frozen=True)

    digest: str
    step: str
    through: str
    """`training data`, or `tokenizer` where only the vocabulary was learned from it."""
    pins: tuple[str, ...] = ()
    """Names that keep it in the store, e.g. as a registered model."""


class Tombstone(BaseModel):
    """What is left of a document that was taken down."""

    model_config = ConfigDict(frozen=True)

    document: str
    reason: str
    time: str
    source: str = ""
    """Name of the registered source it was read from; empty where no artifact tells, and then nothing leaves it out."""
    path: str = ""
    """The file of that source."""
    artifacts: tuple[str, ...] = ()
    models: tuple[SeenBy, ...] = ()


def take_down(store: ArtifactStore, document: str, reason: str) -> Tombstone:
    """Leave a tombstone for a document; taken down once more, it names what was found since, for the first reason.

    Raises:
        InputError: no artifact holds the document.
    """
    trace, key = find_document(store, document), tombstone_key(document)
    before = Tombstone.model_validate_json(store.backend.get(key)) if store.backend.exists(key) else None
    if not (trace.sightings or before):
        raise InputError(f"no artifact in {store.uri} holds a document {document!r}")
    source, path = _read_from(store, trace) or ((before.source, before.path) if before else ("", ""))
    pins = sorted(store.pins().items())
    seen = {model.digest: model for model in (before.models if before else ())}
    for model in trace.models:
        names = tuple(name for name, digest in pins if digest == model.digest)
        seen[model.digest] = SeenBy(digest=model.digest, step=model.step, through=model.through, pins=names)
    artifacts = dict.fromkeys([*(before.artifacts if before else ()), *(s.digest for s in trace.sightings)])
    tombstone = Tombstone(
        document=document,
        reason=before.reason if before else reason,
        time=before.time if before else datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
        path=path,
        artifacts=tuple(artifacts),
        models=tuple(seen.values()),
    )
    store.backend.put(key, tombstone.model_dump_json().encode())
    return tombstone


def tombstones(store: ArtifactStore) -> Iterator[Tombstone]:
    """Every document that was taken down, by its id."""
    for key in sorted(entry.key for entry in store.backend.list(f"{TOMBSTONES}/")):
        yield Tombstone.model_validate_json(store.backend.get(key))


def _read_from(store: ArtifactStore, trace: DocumentTrace) -> tuple[str, str] | None:
    """Source and file of a document, as the artifact tells that was made of the sources themselves."""
    for seen in trace.sightings:
        manifest = store.get_manifest(seen.digest)
        if (
            manifest.kind in ("corpus", "conversations", "preferences")
            and "sources" in manifest.parents
            and not seen.within
        ):
            record = next(islice(read_jsonl(store.blob_path(manifest.shard(seen.shard).blob)), seen.record, None))
            if "path" in record:  # what a step generated itself comes from no file
                return str(record["source"]), str(record["path"])
    return None
