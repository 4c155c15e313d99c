"""A takedown: the tombstone, the models it names, and the next run without the document."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tokenmill.config import StepConfig
from tokenmill.curation.source_config import SourceSpec
from tokenmill.errors import InputError, StoreError
from tokenmill.lineage import find_document
from tokenmill.manifest import Draft, Manifest
from tokenmill.records import read_jsonl
from tokenmill.steps import StepContext, find, run_step, step
from tokenmill.store import ArtifactStore, gc, open_store
from tokenmill.takedown import take_down, tombstones
from tokenmill.tracking import RunRef, read_events

SECRET = "the house by the river has a blue door and nobody may know of it"


@step("toy.learn", version=1)
def learn(config: StepConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """Stands for a training: weights made of a corpus."""
    return ctx.write_json("weights", "weights.json", {"of": corpus.content})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def sources(tmp_path: Path) -> list[SourceSpec]:
    """Two sources; the document to take down is the second line of `pages`."""
    lines = [f"a page of no interest to anybody, number {n}" for n in range(3)]
    lines.insert(1, SECRET)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "p.jsonl").write_text("\n".join(orjson.dumps({"text": text}).decode() for text in lines))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "n.txt").write_text("a note about the weather of the week that was")
    told = {"type": "web", "licence": "CC0-1.0", "origin": "written here"}
    return [SourceSpec(name=name, uri=str(tmp_path / name), **told) for name in ("pages", "notes")]


def run(store: ArtifactStore, sources: list[SourceSpec]) -> tuple[dict[str, Manifest], dict[str, str]]:
    """Artifacts by step, and how each was come by."""
    ref = RunRef.new("takedown", "pico")

    def made(name: str, fields: dict[str, Any], **inputs: Manifest) -> Manifest:
        return run_step(name, find(name).config(**fields), inputs, store=store, run=ref)["output"]

    artifacts = {"sources": made("curation.register_sources", {"sources": tuple(sources)})}
    artifacts["corpus"] = made("curation.ingest", {}, sources=artifacts["sources"])
    artifacts["weights"] = made("toy.learn", {}, corpus=artifacts["corpus"])
    events = read_events(store, ref.key)
    return artifacts, {e.data["step"]: e.data["cache"] for e in events if e.kind == "step_finished"}


def records(store: ArtifactStore, manifest: Manifest) -> list[dict[str, Any]]:
    return [r for shard in (*manifest.shards, *manifest.aside) for r in read_jsonl(store.blob_path(shard.blob))]


def taken(store: ArtifactStore, corpus: Manifest) -> str:
    return next(r["id"] for r in records(store, corpus) if r["text"] == SECRET)


def test_a_takedown_names_every_model_and_the_next_run_goes_without_the_document(
    store: ArtifactStore, sources: list[SourceSpec]
) -> None:
    before, _ = run(store, sources)
    store.pin("models/chat/1", before["weights"].digest)
    document = taken(store, before["corpus"])
    stone = take_down(store, document, "asked to")
    assert [(m.digest, m.through, m.pins) for m in stone.models] == [
        (before["weights"].digest, "training data", ("models/chat/1",))
    ]
    assert (stone.source, stone.path, stone.artifacts) == ("pages", "p.jsonl", (before["corpus"].digest,))

    after, how = run(store, sources)
    assert how == {"curation.register_sources": "effect", "curation.ingest": "miss", "toy.learn": "miss"}
    assert after["sources"].counts == before["sources"].counts | {"taken_down": 1}
    assert after["corpus"].counts["records"] == before["corpus"].counts["records"] - 1
    assert after["corpus"].dropped == {"taken_down": 1}
    assert SECRET not in str(records(store, after["corpus"]))  # not even among what was dropped
    trace = find_document(store, document)
    assert [d.reason for d in trace.dropped] == ["taken_down"]
    assert {m.digest for m in trace.models} == {before["weights"].digest}
    assert set(run(store, sources)[1].values()) == {"effect", "hit"}


def test_a_run_without_the_documents_source_keeps_its_cache(store: ArtifactStore, sources: list[SourceSpec]) -> None:
    everything, _ = run(store, sources)
    alone, _ = run(store, sources[1:])
    take_down(store, taken(store, everything["corpus"]), "asked to")
    again, how = run(store, sources[1:])
    assert again["sources"].digest == alone["sources"].digest
    assert how["curation.ingest"] == "hit"


def test_taken_down_twice_is_one_tombstone_that_keeps_its_reason_and_outlives_collection(
    store: ArtifactStore, sources: list[SourceSpec]
) -> None:
    made, _ = run(store, sources)
    document = taken(store, made["corpus"])
    first = take_down(store, document, "asked to")
    assert take_down(store, document, "another reason") == first
    gc(store, min_age_s=0.0)
    assert list(tombstones(store)) == [first]
    assert take_down(store, document, "once more") == first  # the artifacts are gone, what they were is known
    after, _ = run(store, sources)
    assert after["corpus"].dropped == {"taken_down": 1}


@pytest.mark.parametrize("document", ["0123456789abcdef", "../pins/x", ""])
def test_a_document_that_nobody_holds_is_refused(store: ArtifactStore, document: str) -> None:
    with pytest.raises((InputError, StoreError)):
        take_down(store, document, "asked to")
    assert list(tombstones(store)) == []
