"""The users' own conversations: every file of the sources of type `chat`, record by record."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenmill.errors import InputError
from tokenmill.manifest import Manifest, canonical, sha256
from tokenmill.model.conversation import flaw
from tokenmill.records import Record
from tokenmill.registered import FIELDS, is_chat, told
from tokenmill.rows import Damaged, Rows, rows_of
from tokenmill.sft.formats import Format, UnreadableError, read
from tokenmill.steps import Drop, Keep, Reject
from tokenmill.store import ArtifactStore
from tokenmill.store.layout import TOMBSTONES

MADE = frozenset(["arithmetic", "requests"])
"""Sources of what `sft.prepare` generates."""
Outcome = Keep | Drop | Reject


def read_sources(store: ArtifactStore, sources: Manifest, formats: Mapping[str, Format]) -> Iterator[Outcome]:
    """The conversations of all files, in the order of the files' names; what is none with its file, line and reason."""
    fields, taken_down = (told(store, sources, what) for what in (FIELDS, TOMBSTONES))
    if taken := {shard.name.split("/")[1] for shard in sources.shards if is_chat(shard)} & MADE:
        raise InputError(f"a source of conversations is named {min(taken)!r}, as what sft.prepare makes: rename it")
    for shard in sorted(filter(is_chat, sources.shards), key=lambda s: s.name):
        _, source, path = shard.name.split("/", 2)
        file = _File(source, path, formats.get(source), fields.get(source, {}), frozenset(taken_down.get(source, ())))
        yield from file.conversations(rows_of(path, store.blob_path(shard.blob), "conversations"))


@dataclass(frozen=True)
class _File:
    source: str
    path: str
    format: Format | None
    fields: Mapping[str, str] = field(default_factory=dict)
    """Our name → theirs, where a source's records call their fields otherwise."""
    taken_down: frozenset[str] = frozenset()

    def conversations(self, rows: Rows) -> Iterator[Outcome]:
        """An outcome a row. An id follows from the conversation, so the same one has it in every file of a source."""
        for row in rows:
            where = f"{self.source}/{self.path}{row.place}"
            if isinstance(row, Damaged):
                yield Reject(row.reason, where)
                continue
            try:
                record = read(self._renamed(row.value), self.format)
            except UnreadableError as unreadable:
                yield Reject(str(unreadable), where)
                continue
            if why := flaw(record["messages"], record.get("tools")):
                yield Reject(why, where)
                continue
            record |= {"id": identity(self.source, record), "source": self.source, "path": self.path}
            if record["id"] in self.taken_down:
                told = {name: record[name] for name in ("id", "source", "path")}  # and not a word of the text
                yield Drop("taken_down", told, record["id"], "no conversation taken down")
            else:
                yield Keep(record)

    def _renamed(self, row: Any) -> Any:
        if not isinstance(row, Mapping):
            return row
        return dict(row) | {ours: row[theirs] for ours, theirs in self.fields.items() if theirs in row}


def identity(source: str, record: Record) -> str:
    """`<source>/<hash of what is said and declared>`."""
    return f"{source}/{said(record)[:16]}"


def said(record: Record) -> str:
    """What two records have in common that are the same conversation."""
    return sha256(canonical([record["messages"], record["tools"]] if record.get("tools") else record["messages"]))
