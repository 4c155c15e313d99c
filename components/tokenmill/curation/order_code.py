"""A repository as one document: files in the order of their imports (report §3.1.2).

Dependencies come before dependants; among free files the one nearest to an entry file, then the first by path; a
cycle starts at its alphabetically first file; READMEs and other prose stand right before the first code file of their
folder. The report's "several paths: use the shorter one" can only break ties: a topological order is valid for all
paths.
"""

import heapq
import posixpath
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import orjson

from tokenmill.curation.config import OrderCodeConfig
from tokenmill.curation.imports import Edges, import_edges
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.records import JSONL
from tokenmill.steps import StepContext, step

PROSE = ("markdown", "text")
Record = dict[str, Any]


@step("curation.order_code", version=1, kinds={"corpus": "corpus"})
def order_code(config: OrderCodeConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """Join each repository's files into documents, dependencies first; other types pass through untouched."""
    code = [s for s in corpus.shards if s.name.startswith("type=code/")]
    repositories: defaultdict[str, list[Record]] = defaultdict(list)
    for shard in code:
        for record in ctx.records(corpus, shard):
            repositories[record["source"]].append(record)
    n_files = sum(map(len, repositories.values()))
    documents = [d for name in sorted(repositories) for d in repository_documents(repositories[name], config.max_bytes)]
    if sum(len(d["files"]) for d in documents) != n_files:
        raise AssertionError(f"curation.order_code: {n_files} files in, but not as many in the documents")

    passed: list[Shard] = [s for s in corpus.shards if s not in code]
    by_lang: defaultdict[str, list[Record]] = defaultdict(list)
    for document in documents:
        by_lang[document["lang"]].append(document)
    written = ctx.write_records(
        "corpus", {f"type=code/lang={lang}/part-00000{JSONL}": by_lang[lang] for lang in sorted(by_lang)}
    )
    shards = tuple(sorted((*passed, *written.shards), key=lambda s: s.name))
    counts = {
        "in": sum(s.records for s in corpus.shards),
        "records": sum(s.records for s in shards),
        "code_files": n_files,
        "repositories": len(repositories),
    }
    return Draft(kind="corpus", shards=shards, counts=counts)


def repository_documents(records: list[Record], max_bytes: int) -> Iterator[Record]:
    """The documents of one repository: whole files in order, a further document from `max_bytes` on."""
    by_path = {r["path"]: r for r in records}
    code = {path: r["text"] for path, r in by_path.items() if r["lang"] not in PROSE}
    order = with_prose(topological_order(import_edges(code)), set(by_path) - set(code))
    chunk: list[str] = []
    size = 0
    for path in order:
        n_bytes = len(by_path[path]["text"].encode())
        if chunk and size + n_bytes > max_bytes:
            yield _document([by_path[p] for p in chunk])
            chunk, size = [], 0
        chunk.append(path)
        size += n_bytes
    if chunk:
        yield _document([by_path[p] for p in chunk])


def _document(files: list[Record]) -> Record:
    text = "\n".join(markdown(f["path"], f["lang"], f["text"]) for f in files)
    ids = [f["id"] for f in files]
    weight: defaultdict[str, int] = defaultdict(int)
    for f in files:
        weight[f["lang"]] += len(f["text"]) * (f["lang"] not in PROSE)
    return {
        "id": sha256(orjson.dumps(ids)).hexdigest()[:16],
        "text": text,
        "type": "code",
        "lang": max(sorted(weight), key=weight.__getitem__),
        "source": files[0]["source"],
        "path": posixpath.commonpath([posixpath.dirname(f["path"]) for f in files]) or ".",
        "scores": {},
        "files": [{"id": f["id"], "path": f["path"]} for f in files],
    }


def markdown(path: str, lang: str, text: str) -> str:
    """A file as a section: prose as it is, code in a fence longer than any inside it."""
    if lang in PROSE:
        return f"## {path}\n\n{text}\n"
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`{3,}", text)), default=0))
    return f"## {path}\n\n{fence}{lang}\n{text}\n{fence}\n"


# --- order -----------------------------------------------------------------------------------------------------------


def topological_order(edges: Edges) -> list[str]:
    """Files, dependencies first. `edges[f]` is what f imports."""
    components = strongly_connected(edges)
    home = {path: i for i, component in enumerate(components) for path in component}
    needs: dict[int, set[int]] = {i: set() for i in range(len(components))}
    needed_by: dict[int, set[int]] = {i: set() for i in range(len(components))}
    for path, targets in edges.items():
        for target in targets:
            if home[path] != home[target]:
                needs[home[path]].add(home[target])
                needed_by[home[target]].add(home[path])

    entries = [i for i in needs if not needed_by[i]]
    distance = _distances(entries, needs)
    waiting = {i: len(needs[i]) for i in needs}
    free = [(distance[i], min(components[i]), i) for i in needs if not waiting[i]]
    heapq.heapify(free)
    order: list[str] = []
    while free:
        _, _, i = heapq.heappop(free)
        order.extend(walk_cycle(components[i], edges))
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


def _distances(entries: list[int], needs: Mapping[int, set[int]]) -> dict[int, int]:
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


def with_prose(order: list[str], prose: set[str]) -> list[str]:
    """Insert prose before the first code file of its folder, or of the nearest folder above, or else first of all."""
    first: dict[str, str] = {}
    for path in order:
        first.setdefault(posixpath.dirname(path), path)
    before: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(prose):
        folder = posixpath.dirname(path)
        while folder and folder not in first:
            folder = posixpath.dirname(folder)
        before[first.get(folder, order[0] if order else "")].append(path)
    placed = before.pop("", [])
    for path in order:
        placed.extend([*before[path], path])
    return placed
