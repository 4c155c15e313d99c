"""Why a document went, or how it came to be what it is: its whole history, from the raw file to the models it reached.

A document keeps its id through every stage, so its history is where that id lies in each corpus: among the kept, among
the dropped, or in the `files` of a repository that it was joined into. Shards are streamed and left at the first hit;
the shard of the same name is looked into first, and what descends only from corpora without the document is not read.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from functools import partial
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import orjson
from rich.markup import escape
from rich.tree import Tree

from tokenmill.curation.merge import only_moves
from tokenmill.errors import InputError
from tokenmill.lineage import DocumentTrace, find_document, parents_first, resolve, upstream
from tokenmill.manifest import Manifest, Shard
from tokenmill.records import JSONL, Record, read_lines
from tokenmill.store import ArtifactStore
from tokenmill.tracking.event_files import read_events
from tokenmill.tracking.run import read_run

FateName = Literal["read", "made", "kept", "modified", "dropped", "joined", "absent"]
_SHOWN_CHANGES, _DRAWN_CHANGES = 8, 4
_DRAWN_FILES = 12
_CONTEXT = 40  # characters before a difference


class Change(NamedTuple):
    """A line that a stage changed; invisible characters are spelt out."""

    line: int
    before: str
    after: str


@dataclass(frozen=True)
class Fate:
    """What one stage did with the document."""

    step: str
    digest: str
    fate: FateName
    shard: str = ""
    record: int | None = None  # line of the shard, from 0
    reason: str = ""
    value: Any = None
    threshold: Any = None
    survivor: dict[str, Any] | None = None
    """Of a duplicate: id, source, path and dump of the copy that was kept."""
    within: dict[str, Any] | None = None
    """Of a file: id and path of the repository document it is part of, and its place in it."""
    changes: list[Change] = field(default_factory=list)
    changed_lines: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    """Scores that this stage added or changed."""


@dataclass(frozen=True)
class Origin:
    """The raw file that a document was read from."""

    source: str
    path: str
    licence: str = ""
    origin: str = ""
    blob: str = ""
    bytes: int = 0
    digest: str = ""
    """Of the sources manifest that registered it."""


@dataclass(frozen=True)
class History:
    """A document's life; `stages` come parents first."""

    document: str
    about: dict[str, Any]
    origins: list[Origin]
    stages: list[Fate]
    trace: DocumentTrace
    files: list[dict[str, Any]] = field(default_factory=list)
    """Id and path of the files that a repository document was made of, in their order."""

    @property
    def tokens(self) -> list[Any]:
        return [sighting for sighting in self.trace.sightings if sighting.kind != "corpus"]

    def to_json(self) -> dict[str, Any]:
        return {
            "document": self.document,
            "about": self.about,
            "origins": [asdict(origin) for origin in self.origins],
            "files": self.files,
            "stages": [asdict(f) | {"changes": [c._asdict() for c in f.changes]} for f in self.stages],
            "used_in": [sighting._asdict() for sighting in self.tokens],
            "models": [model._asdict() for model in self.trace.models],
        }

    def tree(self) -> Tree:
        """For a terminal; what a document says is never read as markup."""
        about = " · ".join(f"{name} {value}" for name, value in self.about.items() if name != "excerpt")
        tree = Tree(f"document [bold]{escape(self.document)}[/bold] {escape(about)}")
        tree.add(f"[dim]“{escape(self.about.get('excerpt', ''))}”[/dim]")
        for origin in self.origins:
            size = f" [dim]{origin.bytes:,} bytes, blob {origin.blob[:12]}[/dim]" if origin.blob else ""
            licence = f", {origin.licence}, {origin.origin}" if origin.licence else ""
            tree.add(f"from {escape(f'{origin.source}/{origin.path}')}{size}{escape(licence)}")
        if self.files:
            parts = tree.add(f"made of {len(self.files)} files")
            for part in self.files[:_DRAWN_FILES]:
                parts.add(f"{escape(part['id'])} {escape(part['path'])}")
            if len(self.files) > _DRAWN_FILES:
                parts.add(f"[dim]… and {len(self.files) - _DRAWN_FILES:,} more[/dim]")
        for fate in self.stages:
            _branch(tree, fate)
        for seen in self.tokens:
            offset = f", token {seen.offset:,}" if seen.offset is not None else ""
            held = ", held out" if seen.held_out else ""
            tree.add(f"{seen.step} [dim]{seen.kind} {seen.digest[:12]}[/dim] {escape(seen.shard)}{offset}{held}")
        for model in self.trace.models:
            tree.add(f"reached {model.step} [dim]weights {model.digest[:12]}[/dim] through its {model.through}")
        if not self.trace.models:
            tree.add("reached no model")
        return tree


def _branch(tree: Tree, fate: Fate) -> None:
    colour = {"dropped": "red", "modified": "yellow", "joined": "cyan", "absent": "dim"}.get(fate.fate, "green")
    said = {"absent": "not among its records", "made": "made of files", "joined": "joined into"}.get(
        fate.fate, fate.fate
    )
    told = f"{fate.step} [dim]{fate.digest[:12]}[/dim] [{colour}]{said}[/{colour}]"
    if fate.fate == "dropped":
        told += f" by [bold]{escape(fate.reason)}[/bold]"
        told += escape(f": {_short(fate.value)}") if fate.value is not None else ""
        told += escape(f" against {_short(fate.threshold)}") if fate.threshold is not None else ""
    if fate.within:
        place = f"{fate.within['id']} ({fate.within['path']}), file {fate.within['position']} of {fate.within['files']}"
        told += f" {escape(place)}"
    if fate.scores:
        told += escape(" · scores " + ", ".join(f"{name} {value:g}" for name, value in sorted(fate.scores.items())))
    branch = tree.add(told)
    if fate.survivor:
        kept = " ".join(f"{name} {value}" for name, value in fate.survivor.items() if value and name != "id")
        branch.add(f"kept instead: {escape(fate.survivor['id'])} [dim]{escape(kept)}[/dim]")
    for change in fate.changes[:_DRAWN_CHANGES]:
        line = branch.add(f"line {change.line}")
        line.add(f"[red]- {escape(change.before)}[/red]")
        line.add(f"[green]+ {escape(change.after)}[/green]")
    if fate.changed_lines > _DRAWN_CHANGES:
        branch.add(f"[dim]… {fate.changed_lines:,} lines changed in all[/dim]")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else ", ".join(value) if isinstance(value, list) else str(value)


# --- the history -----------------------------------------------------------------------------------------------------


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
    look = _Look(store)
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
        nodes = {d: store.get_manifest(d) for d in digests if store.backend.exists(f"manifests/{d}")}
    else:
        digests = dict.fromkeys(e.key.removeprefix("manifests/") for e in store.backend.list("manifests/"))
        nodes = {digest: store.get_manifest(digest) for digest in digests}
    found = {digest: nodes[digest] for digest in parents_first(nodes) if nodes[digest].kind in {"corpus", "sources"}}
    if not any(manifest.kind == "corpus" for manifest in found.values()):
        what = f"run {run}" if run else f"manifest {corpus}" if corpus else store.uri
        raise InputError(f"{what} has no corpus to look into; run curation first, or name another store with --store")
    return found


def _identify(look: "_Look", corpora: list[Manifest], given: str) -> tuple[str, bool]:
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
    look: "_Look", manifest: Manifest, document: str, before: Record | None, hints: list[str]
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
        children = {c for c in store.children(parent) if c not in lacking and store.backend.exists(f"manifests/{c}")}
        if parent in holders and not children & holders:
            last.add(parent)
        waiting += sorted(children - seen)
        seen |= children
    among = (seen - holders) | last
    return find_document(store, document, among) if among - holders else DocumentTrace(document)


# --- looking ---------------------------------------------------------------------------------------------------------


class _Hit(NamedTuple):
    shard: str
    number: int
    record: Record
    dropped: bool


class _Look:
    """Looks into shards; one that several corpora share is read once for a document."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self._read: dict[tuple[str, str], tuple[int, Record] | None] = {}
        self._ids: dict[str, set[str]] = {}

    def ids(self, shard: Shard, beginning: str) -> set[str]:
        """Ids that begin so, of records and of the files joined in them; stops at an exact one."""
        if not shard.name.endswith(JSONL):
            return set()
        if shard.blob not in self._ids:
            found: set[str] = set()
            start = b'"id":' + orjson.dumps(beginning)[:-1]
            for line in read_lines(self.store.blob_path(shard.blob)):
                if start in line:
                    found |= {one for one in _ids(orjson.loads(line)) if one.startswith(beginning)}
                    if beginning in found:
                        break
            self._ids[shard.blob] = found
        return self._ids[shard.blob]

    def find(self, manifest: Manifest, document: str, hints: Iterable[str] = ()) -> _Hit | None:
        """Where a corpus has a document; first where its id was met, then where its parent had it."""
        names = {f"{folder}{hint}" for hint in hints for folder in ("", "dropped/")}
        held = [shard for shard in (*manifest.shards, *manifest.aside) if shard.name.endswith(JSONL)]
        for shard in sorted(held, key=lambda s: (document not in self._ids.get(s.blob, ()), s.name not in names)):
            if shard.name.startswith("rejected/"):
                continue
            hit = self._in_shard(shard.blob, document)
            if hit:
                return _Hit(shard.name.removeprefix("dropped/"), *hit, dropped=shard.name.startswith("dropped/"))
        return None

    def survivor(self, manifest: Manifest, record: Record, hints: Iterable[str]) -> dict[str, Any] | None:
        """The copy that was kept in a duplicate's stead."""
        if not record.get("survivor"):
            return None
        hit = self.find(manifest, record["survivor"], hints)
        names = ("source", "path", "dump", "url")
        return {"id": record["survivor"]} | ({n: hit.record[n] for n in names if hit.record.get(n)} if hit else {})

    def _in_shard(self, blob: str, document: str) -> tuple[int, Record] | None:
        if (blob, document) not in self._read:
            self._read[blob, document] = self._search(blob, document)
        return self._read[blob, document]

    def _search(self, blob: str, document: str) -> tuple[int, Record] | None:
        quoted = b'"id":' + orjson.dumps(document)
        for number, line in enumerate(read_lines(self.store.blob_path(blob))):
            if quoted in line and document in _ids(record := orjson.loads(line)):
                return number, record
        return None


def _ids(record: Record) -> set[str]:
    """A record's own id, and those of the files that were joined into it."""
    parts = record.get("files") or ()
    return {str(record.get("id"))} | {str(part.get("id")) for part in parts if isinstance(part, dict)}


# --- what changed in a text ------------------------------------------------------------------------------------------


def text_changes(before: str, after: str, most: int = _SHOWN_CHANGES) -> tuple[list[Change], int]:
    """The first lines that differ, cut to where they do, and how many lines differ in all."""
    if before == after:
        return [], 0
    old, new = before.split("\n"), after.split("\n")
    shown: list[Change] = []
    n_changed = 0
    for kind, i, i_end, j, j_end in SequenceMatcher(None, old, new).get_opcodes():
        if kind == "equal":
            continue
        for offset, (was, now) in enumerate(zip_longest(old[i:i_end], new[j:j_end])):
            n_changed += 1
            if len(shown) < most:
                shown.append(Change(i + offset + 1, *_cut(was, now)))
    return shown, n_changed


def _cut(was: str | None, now: str | None) -> tuple[str, str]:
    """Two lines from shortly before they part; a line that is not there is empty."""
    a, b = was or "", now or ""
    parted = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, parted - _CONTEXT)
    cut = [
        ("… " if start else "") + visible(t[start : start + 120]) + (" …" if len(t) > start + 120 else "")
        for t in (a, b)
    ]
    return (cut[0] if was is not None else "(no line)"), (cut[1] if now is not None else "(no line)")


def visible(text: str) -> str:
    """Text whose invisible characters are spelt out: a zero-width space reads `\\u200b`, one at the end `·`."""
    ended = text.rstrip(" ")
    told = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in ended)
    return told + "·" * (len(text) - len(ended))
