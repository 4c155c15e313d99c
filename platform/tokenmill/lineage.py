"""Lineage: from any artifact up to its raw sources, down to everything made of it, and what differs between two.

Manifests are a Merkle tree, so nothing is recorded for lineage's sake: up is `parents`, down is a listing of children.
A document keeps its id through every shard, which answers "which models saw this document?".
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, NamedTuple

import orjson
from rich.markup import escape
from rich.tree import Tree

from tokenmill.config import flatten
from tokenmill.errors import InputError
from tokenmill.manifest import JSON, Manifest
from tokenmill.records import JSONL, read_lines
from tokenmill.store import ArtifactStore

DOCUMENTS = "documents.jsonl.zst"  # in a tokens artifact: which document lies at which offset of a token shard
_HOLDERS = {"corpus", "tokens", "conversations", "preferences", "questions"}  # kinds whose records are documents
# kinds through which no training data flows
_CLOSED = frozenset(
    ["evaluation", "comparison", "verdict", "report", "training_log", "training_sets", "decontamination", "annotations"]
)
_DIGEST = re.compile(r"^[0-9a-f]{4,64}$")


class Edge(NamedTuple):
    parent: str
    child: str
    role: str


class Source(NamedTuple):
    """A raw source that an artifact goes back to."""

    name: str
    licence: str
    origin: str
    digest: str  # of the sources manifest that registered it


@dataclass(frozen=True)
class LineageGraph:
    """Manifests and the roles they play for each other; `nodes` come parents first."""

    root: str
    nodes: dict[str, Manifest]
    edges: list[Edge]
    missing: frozenset[str] = frozenset()
    """Digests that are referred to but gone from the store."""

    @property
    def sources(self) -> list[Source]:
        """Every raw source among the nodes, by name."""
        found = {source for manifest in self.nodes.values() for source in _sources(manifest)}
        return sorted(found)

    def parents(self, digest: str) -> list[Edge]:
        return [edge for edge in self.edges if edge.child == digest]

    def children(self, digest: str) -> list[Edge]:
        return [edge for edge in self.edges if edge.parent == digest]

    def to_json(self) -> dict[str, JSON]:
        return {
            "root": self.root,
            "nodes": [_summary(manifest) for manifest in self.nodes.values()],
            "edges": [edge._asdict() for edge in self.edges],
            "sources": [source._asdict() for source in self.sources],
            "missing": sorted(self.missing),
        }

    def tree(self, *, downstream: bool = False) -> Tree:
        """The graph from its root, for a terminal; what was shown once is not unfolded again."""
        onward = self.children if downstream else self.parents
        shown: set[str] = set()

        def add(branch: Tree, digest: str) -> None:
            if digest in shown and onward(digest):
                branch.add("[dim]… as above[/dim]")
                return
            shown.add(digest)
            for edge in onward(digest):
                other = edge.child if downstream else edge.parent
                add(branch.add(f"[dim]{edge.role}[/dim] {self._label(other)}"), other)

        tree = Tree(self._label(self.root))
        add(tree, self.root)
        return tree

    def _label(self, digest: str) -> str:
        return _label(self.nodes[digest]) if digest in self.nodes else f"[red]{digest[:12]} is gone[/red]"


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


class Change(NamedTuple):
    """One thing that differs: `what` is step, version, config, facts, counts, dropped, inputs, content or output."""

    what: str
    field: str
    before: JSON
    after: JSON


@dataclass(frozen=True)
class NodeDiff:
    """Two artifacts that play the same part in two histories."""

    path: str
    """Roles from the end product to here, e.g. `base ← corpus`."""
    step: str
    before: str
    after: str
    changes: list[Change]
    same_content: bool

    same_inputs: bool

    @property
    def is_cause(self) -> bool:
        """Something was changed here; otherwise it differs only because its inputs do."""
        return self.same_inputs or any(
            c.what in {"step", "version", "config", "inputs", "output"} for c in self.changes
        )


@dataclass(frozen=True)
class Diff:
    """What changed from one history to another: causes first, then what followed from them."""

    before: str
    after: str
    nodes: list[NodeDiff]

    @property
    def causes(self) -> list[NodeDiff]:
        return [node for node in self.nodes if node.is_cause]

    @property
    def consequences(self) -> list[NodeDiff]:
        return [node for node in self.nodes if not node.is_cause]

    def to_json(self) -> dict[str, JSON]:
        def as_json(node: NodeDiff) -> dict[str, JSON]:
            return asdict(node) | {"changes": [change._asdict() for change in node.changes]}

        return {
            "before": self.before,
            "after": self.after,
            "causes": [as_json(node) for node in self.causes],
            "consequences": [as_json(node) for node in self.consequences],
        }

    def tree(self) -> Tree:
        tree = Tree(f"{self.before[:24]} → {self.after[:24]}")
        if not self.nodes:
            tree.add("no difference")
        for title, nodes in (("changed", self.causes), ("differs because of that", self.consequences)):
            branch = tree.add(f"[bold]{title}[/bold]") if nodes else tree
            for node in nodes:
                note = " [green]same bytes[/green]" if node.same_content else ""
                where = f"{node.path}  " if node.path not in {"", node.step} else ""
                digests = f"{node.before[:12] or 'absent'} → {node.after[:12] or 'absent'}"
                leaf = branch.add(f"{node.step}{note} [dim]{where}{digests}[/dim]")
                for c in node.changes:
                    what = f"{c.what} {c.field}".rstrip()
                    leaf.add(escape(f"{what}: {_short(c.before)} → {_short(c.after)}"))
        return tree


# Walking ------------------------------------------------------------------------------------------------------------


def upstream(store: ArtifactStore, reference: str) -> LineageGraph:
    """Everything that an artifact was made from, down to the raw sources."""
    root = resolve(store, reference)

    def parents(manifest: Manifest) -> Iterator[Edge]:
        for role, digests in sorted(manifest.parents.items()):
            yield from (Edge(digest, manifest.digest, role) for digest in digests)

    return _walk(store, root, parents, lambda edge: edge.parent)


def downstream(store: ArtifactStore, reference: str) -> LineageGraph:
    """Everything that was made from an artifact, as far as this store knows."""
    root = resolve(store, reference)

    def children(manifest: Manifest) -> Iterator[Edge]:
        for child in sorted(store.children(manifest.digest)):
            for role, digests in sorted(store.get_manifest(child).parents.items()):
                if manifest.digest in digests:
                    yield Edge(manifest.digest, child, role)

    return _walk(store, root, children, lambda edge: edge.child)


def _walk(
    store: ArtifactStore, root: str, edges_of: Callable[[Manifest], Iterable[Edge]], onward: Callable[[Edge], str]
) -> LineageGraph:
    nodes, edges, missing, waiting = {root: store.get_manifest(root)}, set(), set(), [root]
    while waiting:
        for edge in edges_of(nodes[waiting.pop()]):
            edges.add(edge)
            digest = onward(edge)
            if digest in nodes or digest in missing:
                continue
            if not store.backend.exists(f"manifests/{digest}"):
                missing.add(digest)
                continue
            nodes[digest] = store.get_manifest(digest)
            waiting.append(digest)
    order = parents_first(nodes)
    return LineageGraph(root, {digest: nodes[digest] for digest in order}, sorted(edges), frozenset(missing))


def parents_first(nodes: Mapping[str, Manifest]) -> list[str]:
    """The digests of some artifacts, each after those of its ancestors that are among them."""
    order: list[str] = []
    done: set[str] = set()
    for start in sorted(nodes, key=lambda d: (nodes[d].step, d)):
        stack = [(start, False)]
        while stack:  # no recursion: a chain of RLHF rounds may be long
            digest, expanded = stack.pop()
            if digest in done or digest not in nodes:
                continue
            if expanded:
                done.add(digest)
                order.append(digest)
            else:
                stack += [(digest, True), *((parent, False) for parent in reversed(nodes[digest].parent_digests))]
    return order


def resolve(store: ArtifactStore, reference: str) -> str:
    """A digest, a unique prefix of one, a manifest's URI or path, or `models:/name@alias` → the digest.

    Raises:
        InputError: nothing, or more than one thing, is called that.
    """
    if reference.startswith("models:/"):
        from tokenmill.tracking.registry import Registry  # MLflow is asked only for its own names

        return Registry(store).resolve_model(reference)
    name = reference.rstrip("/").rpartition("/manifests/")[2] if "/manifests/" in reference else reference
    if not _DIGEST.match(name):
        raise InputError(
            f"{reference!r} is no artifact: give a digest (or its beginning), a manifest's URI, or models:/name@alias"
        )
    if len(name) == 64:
        if not store.backend.exists(f"manifests/{name}"):
            raise InputError(f"no manifest {name[:12]}… in {store.uri}")
        return name
    found = sorted(entry.key.removeprefix("manifests/") for entry in store.backend.list(f"manifests/{name}"))
    if len(found) != 1:
        some = ", ".join(digest[:12] for digest in found[:4])
        raise InputError(f"{name} fits {len(found)} manifests in {store.uri}{': ' + some if some else ''}")
    return found[0]


# Documents ----------------------------------------------------------------------------------------------------------


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


# Differences --------------------------------------------------------------------------------------------------------


def diff(store: ArtifactStore, before: str, after: str) -> Diff:
    """What changed between two artifacts, or between two runs (`run:<key>`), anywhere in their histories.

    Both graphs are walked from the end, role by role; where two digests agree, everything above them agrees.
    """
    if before.startswith("run:") != after.startswith("run:"):
        raise InputError(f"{before} and {after}: compare two artifacts, or two runs (run:<key>)")
    a, b = _roots(store, before), _roots(store, after)
    found: list[tuple[int, NodeDiff]] = []
    seen: set[tuple[str, str]] = set()
    waiting = [(0, name, a[name], b[name]) for name in b if name in a]
    while waiting:
        depth, path, one, other = waiting.pop(0)
        if one == other or (one, other) in seen:
            continue
        seen.add((one, other))
        old, new = store.get_manifest(one), store.get_manifest(other)
        pairs, unmatched = _match_parents(store, old, new)
        changes = [*_changes(old, new), *unmatched]
        same_inputs = all(x == y for _, x, y in pairs)
        same_content = old.content == new.content
        if same_inputs and not same_content:
            changes.append(Change("content", "", old.content[:12], new.content[:12]))
        found.append((depth, NodeDiff(path, new.step, one, other, changes, same_content, same_inputs)))
        waiting += [(depth + 1, f"{path} ← {role}" if path else role, x, y) for role, x, y in pairs]
    for name, digest in [*((n, d) for n, d in a.items() if n not in b), *((n, d) for n, d in b.items() if n not in a)]:
        manifest = store.get_manifest(digest)
        told = [f"{manifest.kind} {digest[:12]}" if name in side else None for side in (a, b)]
        only = Change("output", "", *told)
        found.append((0, NodeDiff(name, manifest.step, a.get(name, ""), b.get(name, ""), [only], False, False)))
    found.sort(key=lambda item: -item[0])  # the earliest step first: there it began
    return Diff(before, after, [node for _, node in found])


def _roots(store: ArtifactStore, reference: str) -> dict[str, str]:
    """Name → digest: one artifact, or every output of a run's tasks."""
    if not reference.startswith("run:"):
        return {"": resolve(store, reference)}
    from tokenmill.tracking.events import read_events, read_run

    run = read_run(store, reference.removeprefix("run:"))
    finished = [event for event in read_events(store, run.key) if event.kind == "step_finished"]
    return {
        event.task if role == "output" else f"{event.task}/{role}": output["digest"]
        for event in finished
        for role, output in event.data["outputs"].items()
        if output["kind"] not in {"training_log", "report"}  # they say how it went, not what was made
    }


def _match_parents(
    store: ArtifactStore, old: Manifest, new: Manifest
) -> tuple[list[tuple[str, str, str]], list[Change]]:
    """Parents that play the same part (role, then step, then place in the list), and those that have no counterpart."""
    pairs, unmatched = [], []
    for role in sorted(old.parents.keys() | new.parents.keys()):
        before, after = list(old.parents.get(role, ())), list(new.parents.get(role, ()))
        for digest in [d for d in before if d in after]:
            before.remove(digest)
            after.remove(digest)
            pairs.append((role, digest, digest))
        for digest in list(before):
            step = store.get_manifest(digest).step
            partner = next((d for d in after if store.get_manifest(d).step == step), None)
            if partner:
                before.remove(digest)
                after.remove(partner)
                pairs.append((role, digest, partner))
        if before or after:
            plain = [[f"{store.get_manifest(d).step} {d[:12]}" for d in side] for side in (before, after)]
            unmatched.append(Change("inputs", role, *plain))
    return pairs, unmatched


def _changes(old: Manifest, new: Manifest) -> Iterator[Change]:
    for name in ("step", "version"):
        if getattr(old, name) != getattr(new, name):
            yield Change(name, "", getattr(old, name), getattr(new, name))
    for name in ("config", "facts", "counts", "dropped"):
        before, after = dict(flatten(getattr(old, name))), dict(flatten(getattr(new, name)))
        for path in sorted(before.keys() | after.keys()):
            if before.get(path) != after.get(path):
                yield Change(name, path, before.get(path), after.get(path))


# Showing ------------------------------------------------------------------------------------------------------------


def _sources(manifest: Manifest) -> Iterator[Source]:
    if manifest.kind == "sources":
        for name, facts in sorted(manifest.facts.get("sources", {}).items()):
            yield Source(name, str(facts.get("licence", "")), str(facts.get("origin", "")), manifest.digest)


def _summary(manifest: Manifest) -> dict[str, Any]:
    names = ("kind", "step", "version", "counts", "facts", "content", "digest")
    return {name: getattr(manifest, name) for name in names}


def _label(manifest: Manifest) -> str:
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(manifest.counts.items())[:3])
    tail = f" · {counts}" if counts else ""
    return f"[bold]{manifest.step}[/bold] v{manifest.version} {manifest.kind} [dim]{manifest.digest[:12]}[/dim]{tail}"


def _short(value: JSON) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
