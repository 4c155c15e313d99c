"""The graph of what was made from what: from any artifact up to its raw sources, and down to everything made of it."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.tree import Tree

from tokenmill.errors import InputError
from tokenmill.manifest import JSON, Manifest
from tokenmill.store import ArtifactStore

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
            if not store.has_manifest(digest):
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
        if not store.has_manifest(name):
            raise InputError(f"no manifest {name[:12]}… in {store.uri}")
        return name
    found = sorted(entry.key.removeprefix("manifests/") for entry in store.backend.list(f"manifests/{name}"))
    if len(found) != 1:
        some = ", ".join(digest[:12] for digest in found[:4])
        raise InputError(f"{name} fits {len(found)} manifests in {store.uri}{': ' + some if some else ''}")
    return found[0]


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
