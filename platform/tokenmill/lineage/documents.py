"""Where a document lies, where it was dropped, and which models it reached: it keeps its id through every shard."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import orjson
from rich.markup import escape
from rich.tree import Tree

from tokenmill.lineage.graph import parents_first
from tokenmill.manifest import JSON, Manifest
from tokenmill.records import JSONL, read_lines
from tokenmill.store import ArtifactStore

DOCUMENTS = "documents.jsonl.zst"  # in a tokens artifact: which document lies at which offset of a token shard
_HOLDERS = {"corpus", "tokens", "conversations", "preferences", "questions"}  # kinds whose records are documents
# kinds through which no training data flows
_CLOSED = frozenset(
    ["evaluation", "comparison", "verdict", "report", "training_log", "training_sets", "decontamination", "annotations"]
)


class Sighting(NamedTuple):
    """Where a document lies in an artifact."""

    digest: str
    kind: str
    step: str
    shard: str
    record: int  # line of the shard, from 0; for tokens, of the documents file
    offset: int | None  # in tokens: where its first token lies
    held_out: bool  # kept for validation: no model learned from it
    within: str  # the document it became a part of, e.g. its repository; empty where it stands alone


class Dropped(NamedTuple):
    """Where a document was left out, and why."""

    digest: str
    step: str
    reason: str
    value: JSON
    threshold: JSON


class Influence(NamedTuple):
    """A model and how a document reached it."""

    digest: str
    step: str
    through: str  # "training data", or "tokenizer" where only the vocabulary was learned from it
    path: tuple[str, ...]  # digests from the artifact that holds the document to the model


@dataclass(frozen=True)
class DocumentTrace:
    """Every artifact that holds a document, where it was dropped, and every model that it reached."""

    document: str
    sightings: list[Sighting] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    models: list[Influence] = field(default_factory=list)

    def to_json(self) -> dict[str, JSON]:
        return {
            "document": self.document,
            "sightings": [s._asdict() for s in self.sightings],
            "dropped": [d._asdict() for d in self.dropped],
            "models": [m._asdict() for m in self.models],
        }

    def tree(self) -> Tree:
        tree = Tree(f"document [bold]{escape(self.document)}[/bold]")
        held = tree.add(f"lies in {len({s.digest for s in self.sightings})} artifacts")
        for s in self.sightings:
            where = f", token {s.offset:,}" if s.offset is not None else ""
            note = (f" within {s.within}" if s.within else "") + (", held out" if s.held_out else "")
            held.add(f"{s.step} [dim]{s.kind} {s.digest[:12]}[/dim] {escape(s.shard)} record {s.record}{where}{note}")
        for d in self.dropped:
            why = f": {d.value} against {d.threshold}" if d.value is not None else ""
            tree.add(f"dropped by {d.step} [dim]{d.digest[:12]}[/dim], {escape(d.reason + why)}")
        seen = tree.add(f"reached {len(self.models)} models")
        for model in self.models:
            seen.add(f"{model.step} [dim]{model.digest[:12]}[/dim] through its {model.through}")
        return tree


def find_document(store: ArtifactStore, document: str, among: Iterable[str] | None = None) -> DocumentTrace:
    """The artifacts that hold a document, and every model that it reached.

    A model counts when a chain of artifacts leads to it that each hold the document: what a filter dropped, or what was
    held out, does not reach what was trained on the rest. Where it was joined into another document (a file into its
    repository), that document is followed. Tokens without a map of their documents are taken to hold all
    of their parents'.
    Reads the shards of every corpus, conversations… in the store (equal shards once), or of those `among` these digests.
    """
    everything = (entry.key.removeprefix("manifests/") for entry in store.backend.list("manifests/"))
    manifests = {digest: store.get_manifest(digest) for digest in (everything if among is None else among)}
    look = _Look(store, document)
    sightings: list[Sighting] = []
    dropped: list[Dropped] = []
    for digest in parents_first(manifests):
        manifest = manifests[digest]
        if manifest.kind in _HOLDERS:
            sightings += look.into(manifest)
            dropped += look.aside(manifest)
    models = _influenced(manifests, {s.digest for s in sightings if not s.held_out})
    return DocumentTrace(document, sightings, dropped, models)


class _Look:
    """Looks for one document and what it was joined into; a shard that several artifacts share is read once.

    Artifacts are looked into parents first, so that a joined document's name is known before it is met again.
    """

    def __init__(self, store: ArtifactStore, document: str):
        self.store, self.document = store, document
        self._ids = frozenset([document])
        self._hits: Callable[[str, frozenset[str]], list[tuple[int, dict[str, JSON]]]] = cache(self._read)

    def into(self, manifest: Manifest) -> Iterator[Sighting]:
        tokens = manifest.kind == "tokens"
        for shard in manifest.shards:
            if shard.name.endswith(DOCUMENTS if tokens else JSONL):
                for number, record in self._hits(shard.blob, self._ids):
                    identity = str(record.get("id") or self.document)
                    self._ids |= {identity}
                    place = (record.get("offset"), bool(record.get("heldout"))) if tokens else (None, False)
                    within = "" if identity == self.document else identity
                    yield Sighting(manifest.digest, manifest.kind, manifest.step, shard.name, number, *place, within)

    def aside(self, manifest: Manifest) -> Iterator[Dropped]:
        for shard in manifest.aside:
            if shard.name.startswith("dropped/"):
                for _, record in self._hits(shard.blob, self._ids):
                    why = record.get("dropped") or {}
                    reason = str(why.get("reason", "no reason recorded"))
                    yield Dropped(manifest.digest, manifest.step, reason, why.get("value"), why.get("threshold"))

    def _read(self, blob: str, ids: frozenset[str]) -> list[tuple[int, dict[str, JSON]]]:
        """(line, record) of the records that are one of the documents, or hold one among their `files`."""
        quoted = [orjson.dumps(name) for name in ids]
        hits = []
        for number, line in enumerate(read_lines(self.store.blob_path(blob))):
            if any(name in line for name in quoted):  # parse only what may be it
                record = orjson.loads(line)
                parts = record.get("files") or ()
                if record.get("id") in ids or any(isinstance(f, dict) and f.get("id") in ids for f in parts):
                    hits.append((number, record))
        return hits


def _influenced(manifests: Mapping[str, Manifest], holders: set[str]) -> list[Influence]:
    """Weights below the artifacts that hold the document; the shortest way to each, training data before tokenizer."""
    children: dict[str, list[str]] = {}
    for digest in sorted(manifests):
        for parent in manifests[digest].parent_digests:
            children.setdefault(parent, []).append(digest)

    def carries(digest: str) -> bool:
        manifest = manifests[digest]
        if manifest.kind == "tokens" and not any(shard.name.endswith(DOCUMENTS) for shard in manifest.shards):
            return True
        return digest in holders if manifest.kind in _HOLDERS else manifest.kind not in _CLOSED

    ways: dict[str, tuple[str, ...]] = {digest: (digest,) for digest in sorted(holders)}
    through = dict.fromkeys(ways, "training data")
    waiting, later = list(ways), list[tuple[str, str]]()
    while waiting or later:
        if not waiting:  # what data has not reached, the tokenizer may have
            parent, child = later.pop(0)
            reached, how = [child], "tokenizer"
        else:
            parent = waiting.pop(0)
            reached, how = [c for c in children.get(parent, []) if carries(c)], through[parent]
            if how == "training data":
                later += [(parent, c) for c in reached if manifests[c].kind == "tokenizer"]
                reached = [c for c in reached if manifests[c].kind != "tokenizer"]
        for child in reached:
            if child not in ways:
                ways[child], through[child] = (*ways[parent], child), how
                waiting.append(child)
    weights = [digest for digest in ways if manifests[digest].kind == "weights"]
    models = [Influence(digest, manifests[digest].step, through[digest], ways[digest]) for digest in weights]
    return sorted(models, key=lambda m: (m.through != "training data", len(m.path), m.step, m.digest))
