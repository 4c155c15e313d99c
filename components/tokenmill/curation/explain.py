"""Why a document went, or how it came to be what it is: its whole history, from the raw file to the models it reached.

A document keeps its id through every stage, so its history is where that id lies in each corpus: among the kept, among
the dropped, or in the `files` of a repository that it was joined into. Shards are streamed and left at the first hit;
the shard of the same name is looked into first, and what descends only from corpora without the document is not read.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from tokenmill.curation.history import Fate, FateName, History, Origin
from tokenmill.curation.merge import only_moves
from tokenmill.curation.shard_search import ShardSearch
from tokenmill.curation.text_changes import text_changes, visible
from tokenmill.errors import InputError
from tokenmill.lineage import DocumentTrace, find_document, parents_first, resolve, upstream
from tokenmill.manifest import Manifest
from tokenmill.records import Record
from tokenmill.store import ArtifactStore
from tokenmill.tracking.event_files import read_events
from tokenmill.tracking.run import read_run


def explain(store: ArtifactStore, document: str, *, run: str | None = None, corpus: str | None = None) -> History:
    """The history of a document in the corpora of a run, in a corpus and what it was made of, or in the whole store.

    Args:
        document: an id, or a beginning that only one document has.
        run: key of a run.
        corpus: digest (or its beginning) or URI of a manifest.

    Raises:
        InputError: no document, or several, are called that; says what was searched.
    """
    manifests = scope(store, run, corpus)
    corpora = [m for m in manifests.values() if m.kind == "corpus"]
    look = ShardSearch(store)
    identity, made_later = _identify(look, corpora, document)
    fates: dict[str, Fate] = {}
    records: dict[str, Record] = {}
    for manifest in corpora:
        parents = [d for d in manifest.parent_digests if d in manifests and manifests[d].kind == "corpus"]
        holding = [d for d in parents if d in records and fates[d].fate != "dropped"]
        if parents and not holding and not made_later:
            continue  # it went before
        hints = [fates[d].shard for d in holding]
        before = records[holding[0]] if holding else None
        fate, record = _fate(look, manifest, identity, before, hints)
        if record is not None:
            records[manifest.digest] = record
        if record is not None or holding:
            fates[manifest.digest] = fate
    stages = _distinct(fates.values(), manifests)
    first = next(iter(records.values()))
    files = first["files"] if first.get("files") and first["id"] == identity else []
    trace = _afterwards(store, identity, fates)
    return History(identity, _about(first), list(_origins(manifests, first)), stages, trace, files)


def scope(store: ArtifactStore, run: str | None = None, corpus: str | None = None) -> dict[str, Manifest]:
    """The corpora and sources to look into, parents first.

    Raises:
        InputError: there is no such run or manifest, or nothing in it.
    """
    if corpus:
        nodes: Mapping[str, Manifest] = upstream(store, resolve(store, corpus)).nodes
    elif run:
        read_run(store, run)
        finished = [event for event in read_events(store, run) if event.kind == "step_finished"]
        digests = dict.fromkeys(output["digest"] for event in finished for output in event.data["outputs"].values())
        nodes = {d: store.get_manifest(d) for d in digests if store.has_manifest(d)}
    else:
        digests = dict.fromkeys(e.key.removeprefix("manifests/") for e in store.backend.list("manifests/"))
        nodes = {digest: store.get_manifest(digest) for digest in digests}
    found = {digest: nodes[digest] for digest in parents_first(nodes) if nodes[digest].kind in {"corpus", "sources"}}
    if not any(manifest.kind == "corpus" for manifest in found.values()):
        what = f"run {run}" if run else f"manifest {corpus}" if corpus else store.uri
        raise InputError(f"{what} has no corpus to look into; run curation first, or name another store with --store")
    return found


def _identify(look: ShardSearch, corpora: list[Manifest], given: str) -> tuple[str, bool]:
    """The one id that is, or begins with, what was given; and whether it was made later than the first corpora.

    A repository document's id is made where its files are joined. An exact id ends the search.
    """
    if not given:
        raise InputError("give a document's id, or its beginning")
    digests = {m.digest for m in corpora}
    roots = [m for m in corpora if not digests.intersection(m.parent_digests)]
    others = [m for m in corpora if m not in roots]
    found: set[str] = set()
    for group in (roots, others):
        for manifest in group:
            for shard in (*manifest.shards, *manifest.aside):
                found |= look.ids(shard, given)
                if given in found:
                    return given, group is others
        if found:
            break
    if not found:
        steps = ", ".join(dict.fromkeys(f"{m.step} {m.digest[:12]}" for m in corpora[:6]))
        records = sum(m.counts.get("in", m.counts.get("records", 0)) for m in roots)
        raise InputError(
            f"no document {given!r}: searched {records:,} records of {len(corpora)} corpora in {look.store.uri} ({steps}"
            f"{', …' if len(corpora) > 6 else ''}), kept and dropped; ids are as in records and in the funnel"
        )
    if len(found) > 1:
        some = ", ".join(sorted(found)[:4])
        raise InputError(
            f"{given!r} begins {len(found)} documents' ids: {some}{', …' if len(found) > 4 else ''}; give more"
        )
    return found.pop(), group is others


def _fate(
    look: ShardSearch, manifest: Manifest, document: str, before: Record | None, hints: list[str]
) -> tuple[Fate, Record | None]:
    """What a corpus has of the document, and the record as it stands there."""
    hit = look.find(manifest, document, hints)
    if hit is None:
        return Fate(manifest.step, manifest.digest, "absent"), None
    record = hit.record
    fate = partial(Fate, manifest.step, manifest.digest, shard=hit.shard, record=hit.number)
    if hit.dropped:
        why = record.get("dropped") or {}
        reason = str(why.get("reason") or "no reason recorded")
        survivor = look.survivor(manifest, record, hints)
        value, threshold = why.get("value"), why.get("threshold")
        return fate("dropped", reason=reason, value=value, threshold=threshold, survivor=survivor), record
    if record["id"] != document:
        place = next(i for i, part in enumerate(record["files"], 1) if part["id"] == document)
        within = {"id": record["id"], "path": record.get("path", ""), "position": place, "files": len(record["files"])}
        return fate("joined", within=within), record
    if before is None:
        return fate("made" if record.get("files") else "read"), record
    changes, n_changed = text_changes(before.get("text", ""), record.get("text", ""))
    old = before.get("scores") or {}
    scores = {name: value for name, value in (record.get("scores") or {}).items() if old.get(name) != value}
    name: FateName = "modified" if n_changed else "kept"
    return fate(name, changes=changes, changed_lines=n_changed, scores=scores), record


def _distinct(fates: Iterable[Fate], manifests: Mapping[str, Manifest]) -> list[Fate]:
    """A stage that several runs made alike is told once, as the last of them; what only moved shards is none."""
    told: dict[tuple[str, str, str], Fate] = {}
    for fate in fates:
        manifest = manifests[fate.digest]
        if not only_moves(manifest):
            told[fate.step, manifest.content, fate.fate + fate.reason] = fate
    return list(told.values())


def _about(record: Record) -> dict[str, Any]:
    names = ("type", "lang", "title", "url", "date", "dump")
    text = record.get("text", "")
    about = {name: record[name] for name in names if record.get(name)} | {"characters": len(text)}
    return about | {"excerpt": visible(" ".join(text[:400].split())[:160])}


def _origins(manifests: Mapping[str, Manifest], record: Record) -> Iterator[Origin]:
    """The registered file, as each sources manifest has it; without one, what the record says."""
    source, path = str(record.get("source", "")), str(record.get("path", ""))
    found: dict[tuple[str, str], Origin] = {}
    for manifest in manifests.values():
        facts = manifest.facts.get("sources", {}).get(source) if manifest.kind == "sources" else None
        if facts is None:
            continue
        licence, origin = str(facts.get("licence", "")), str(facts.get("origin", ""))
        if record.get("files"):
            found["", licence] = Origin(source, path, licence, origin, digest=manifest.digest)
        for shard in manifest.shards:
            if shard.name.partition("/")[2] == f"{source}/{path}":
                found[shard.blob, licence] = Origin(
                    source, path, licence, origin, shard.blob, shard.size, manifest.digest
                )
    yield from found.values() if found else [Origin(source, path)]


def _afterwards(store: ArtifactStore, document: str, fates: Mapping[str, Fate]) -> DocumentTrace:
    """Where it was used: in tokens, conversations… and models below the last corpora that hold it."""
    lacking = {digest for digest, fate in fates.items() if fate.fate in {"dropped", "absent"}}
    holders = fates.keys() - lacking
    seen, waiting = set(holders), sorted(holders)
    last: set[str] = set()
    while waiting:
        parent = waiting.pop()
        children = {c for c in store.children(parent) if c not in lacking and store.has_manifest(c)}
        if parent in holders and not children & holders:
            last.add(parent)
        waiting += sorted(children - seen)
        seen |= children
    among = (seen - holders) | last
    return find_document(store, document, among) if among - holders else DocumentTrace(document)
