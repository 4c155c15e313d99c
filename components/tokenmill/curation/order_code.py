"""A repository as one document: files in the order of their imports (report §3.1.2).

Dependencies come before dependants; among free files the one nearest to an entry file, then the first by path; a
cycle starts at its alphabetically first file; READMEs and other prose stand right before the first code file of their
folder. The report's "several paths: use the shorter one" can only break ties: a topological order is valid for all
paths.
"""

import heapq
import posixpath
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import Any

import orjson

from tokenmill.curation.config import OrderCodeConfig
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.records import read_jsonl
from tokenmill.repositories.files import PROSE, PROSE_SUFFIXES, Repository, files_by_path, markdown, with_prose
from tokenmill.repositories.imports import Edges, import_edges
from tokenmill.steps import Keep, StepContext, step
from tokenmill.store import open_store

GROUP_BYTES = 64 << 20
"""Text (characters) of the repositories that a worker orders at a time: its memory does not grow with the corpus."""
SHARD_DOCUMENTS = 500
TOLD = 20
"""Cycles that the facts name, of those there are."""
Record = dict[str, Any]


@step("curation.order_code", version=4, kinds={"corpus": "corpus"})
def order_code(config: OrderCodeConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """Join each repository's files into documents, dependencies first; other types pass through untouched."""
    code = [s for s in corpus.shards if s.name.startswith("type=code/")]
    groups = _groups(code, corpus, ctx)
    jobs = [_Job(ctx.store.uri, group, shards, config.max_bytes) for group, shards in groups]
    n_files = sum(s.records for s in code)
    ordered = _Ordered()
    joined = ctx.partition(map(Keep, ordered.documents(ctx.parallel(_Job.run, jobs, "repositories"))),
                           shard_records=SHARD_DOCUMENTS) if code else None  # fmt: skip
    if ordered.files != n_files:
        raise AssertionError(f"curation.order_code: {n_files} files in, but {ordered.files} in the documents")

    passed: list[Shard] = [s for s in corpus.shards if s not in code]
    shards = tuple(sorted((*passed, *(joined.shards if joined else ())), key=lambda s: s.name))
    counts = {
        "in": sum(s.records for s in corpus.shards),
        "records": sum(s.records for s in shards),
        "code_files": n_files,
        "repositories": ordered.repositories,
        "cycles": len(ordered.cycles),
    }
    facts = {"cycles": ordered.cycles[:TOLD]} if ordered.cycles else {}
    return Draft(kind="corpus", shards=shards, counts=counts, facts=facts)


def _groups(
    code: Sequence[Shard], corpus: Manifest, ctx: StepContext
) -> list[tuple[frozenset[Repository], tuple[Shard, ...]]]:
    """Repositories by alphabet in groups of at most GROUP_BYTES (or one larger one), with the shards that hold them."""
    sizes: defaultdict[Repository, int] = defaultdict(int)
    places: defaultdict[Repository, set[int]] = defaultdict(set)
    for number, shard in enumerate(code):
        for record in ctx.records(corpus, shard):
            repository = Repository.of(record)
            sizes[repository] += len(record["text"])
            places[repository].add(number)
    groups: list[list[Repository]] = []
    room = 0
    for repository in sorted(sizes):
        if sizes[repository] > room or not groups:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(repository)
        room -= sizes[repository]
    return [
        (frozenset(group), tuple(code[number] for number in sorted(set().union(*(places[r] for r in group)))))
        for group in groups
    ]


@dataclass(frozen=True)
class _Job:
    """Some repositories, in a worker process."""

    store: str
    repositories: frozenset[Repository]
    shards: tuple[Shard, ...]
    max_bytes: int

    def run(self) -> list[tuple[str, list[Record], list[list[str]]]]:
        """(repository, its documents, its import cycles) of each, by alphabet."""
        store = open_store(self.store)
        files: defaultdict[Repository, list[Record]] = defaultdict(list)
        for shard in self.shards:
            for record in read_jsonl(store.blob_path(shard.blob)):
                if (repository := Repository.of(record)) in self.repositories:
                    files[repository].append(record)
        results = []
        for repository in sorted(files):
            by_path = files_by_path(files[repository])
            edges = _edges(by_path)
            documents = list(_documents(by_path, edges, self.max_bytes))
            results.append((str(repository), documents, import_cycles(edges)))
        return results


class _Ordered:
    """Counts what goes by on its way to the shards."""

    def __init__(self) -> None:
        self.files = self.repositories = 0
        self.cycles: list[dict[str, Any]] = []

    def documents(self, results: Iterable[list[tuple[str, list[Record], list[list[str]]]]]) -> Iterator[Record]:
        for name, documents, cycles in chain.from_iterable(results):
            self.repositories += 1
            self.cycles += [{"repository": name, "files": len(cycle), "first": cycle[:TOLD]} for cycle in cycles]
            for document in documents:
                self.files += len(document["files"])
                yield document


def order_repository(files: Mapping[str, str]) -> list[str]:
    """The paths of one repository's `{path: text}` in reading order: dependencies before dependants.

    The same for every order of `files`. Prose (by suffix) stands before the first code file of its folder; a cycle
    of imports starts at its alphabetically first file (report §3.1.2).
    """
    code = {path: text for path, text in files.items() if not path.lower().endswith(PROSE_SUFFIXES)}
    return with_prose(topological_order(import_edges(code)), set(files) - set(code))


def import_cycles(edges: Edges) -> list[list[str]]:
    """The sets of files that import each other in a circle, each from its alphabetically first file on, by alphabet."""
    return sorted(walk_cycle(component, edges) for component in strongly_connected(edges) if len(component) > 1)


def repository_documents(records: Iterable[Record], max_bytes: int) -> Iterator[Record]:
    """The documents of one repository: whole files in order, a further document from `max_bytes` on.

    Of several records with one path the first by id is the file, and the others stand behind it.
    """
    by_path = files_by_path(records)
    yield from _documents(by_path, _edges(by_path), max_bytes)


def _edges(by_path: Mapping[str, list[Record]]) -> Edges:
    return import_edges({path: files[0]["text"] for path, files in by_path.items() if files[0]["lang"] not in PROSE})


def _documents(by_path: Mapping[str, list[Record]], edges: Edges, max_bytes: int) -> Iterator[Record]:
    order = with_prose(topological_order(edges), set(by_path) - set(edges))
    chunk: list[Record] = []
    size = 0
    for record in chain.from_iterable(by_path[path] for path in order):
        n_bytes = len(record["text"].encode())
        if chunk and size + n_bytes > max_bytes:
            yield _document(chunk)
            chunk, size = [], 0
        chunk.append(record)
        size += n_bytes
    if chunk:
        yield _document(chunk)


def _document(files: list[Record]) -> Record:
    text = "\n".join(markdown(f["path"], f["lang"], f["text"]) for f in files)
    ids = [f["id"] for f in files]
    weight: defaultdict[str, int] = defaultdict(int)
    for f in files:
        weight[f["lang"]] += len(f["text"]) * (f["lang"] not in PROSE)
    document = {
        "id": sha256(orjson.dumps(ids)).hexdigest()[:16],
        "text": text,
        "type": "code",
        "lang": max(sorted(weight), key=weight.__getitem__),
        "source": files[0]["source"],
        "path": posixpath.commonpath([posixpath.dirname(f["path"]) for f in files]) or ".",
        "scores": {},
        "files": [{"id": f["id"], "path": f["path"]} for f in files],
    }
    told = {"repository": files[0]["repository"]} if files[0].get("repository") else {}
    return document | told | _epochs(files)


def _epochs(files: list[Record]) -> dict[str, int]:
    """How often a document of files in tiers is learned: the mean of its files' epochs by length, since they stay together."""
    if not any("epochs" in f for f in files):
        return {}
    sizes = [len(f["text"]) for f in files]
    epochs = [f.get("epochs", 1) for f in files]
    return {"epochs": max(1, round(sum(s * e for s, e in zip(sizes, epochs, strict=True)) / max(1, sum(sizes))))}


# --- order -----------------------------------------------------------------------------------------------------------


def topological_order(edges: Edges) -> list[str]:
    """Files, dependencies first. `edges[f]` is what f imports."""
    components = strongly_connected(edges)
    home = {path: i for i, component in enumerate(components) for path in component}
    needs = [
        {home[target] for path in component for target in edges[path]} - {i} for i, component in enumerate(components)
    ]
    needed_by: list[list[int]] = [[] for _ in components]
    for i, needed in enumerate(needs):
        for j in needed:
            needed_by[j].append(i)

    distance = _distances([i for i, by in enumerate(needed_by) if not by], needs)
    waiting = [len(needed) for needed in needs]
    free = [(distance[i], min(components[i]), i) for i, number in enumerate(waiting) if not number]
    heapq.heapify(free)
    order: list[str] = []
    while free:
        _, first, i = heapq.heappop(free)
        order.extend(walk_cycle(components[i], edges) if len(components[i]) > 1 else [first])
        for j in needed_by[i]:
            waiting[j] -= 1
            if not waiting[j]:
                heapq.heappush(free, (distance[j], min(components[j]), j))
    return order


def walk_cycle(component: Iterable[str], edges: Mapping[str, set[str]]) -> list[str]:
    """Files of a cycle from the alphabetically first one on, following imports by alphabet."""
    members, order = set(component), []
    stack = [min(members)]
    while stack:
        path = stack.pop()
        if path in members:
            members.remove(path)
            order.append(path)
            stack.extend(sorted(edges[path] & members, reverse=True))
    return order


def _distances(entries: list[int], needs: Sequence[set[int]]) -> dict[int, int]:
    """Imports on the shortest way from an entry file, which nothing imports."""
    distance = dict.fromkeys(entries, 0)
    queue = deque(entries)
    while queue:
        i = queue.popleft()
        for j in needs[i]:
            if j not in distance:
                distance[j] = distance[i] + 1
                queue.append(j)
    return distance


def strongly_connected(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Tarjan's components, without recursion (a repository's import chain may be deeper than Python's stack)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    open_nodes: list[str] = []
    is_open: set[str] = set()
    components: list[list[str]] = []
    for start in sorted(edges):
        if start in index:
            continue
        work = [(start, iter(sorted(edges[start])))]
        index[start] = low[start] = len(index)
        open_nodes.append(start)
        is_open.add(start)
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in index:
                    index[target] = low[target] = len(index)
                    open_nodes.append(target)
                    is_open.add(target)
                    work.append((target, iter(sorted(edges[target]))))
                    break
                if target in is_open:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component: list[str] = []
                    while not component or component[-1] != node:
                        component.append(open_nodes.pop())
                        is_open.discard(component[-1])
                    components.append(component)
    return components
