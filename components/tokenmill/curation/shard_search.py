"""Where a document lies in the shards of corpora. Shards are streamed and left at the first hit."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from tokenmill.manifest import Manifest, Shard
from tokenmill.records import JSONL, Record, read_lines
from tokenmill.store import ArtifactStore


class Hit(NamedTuple):
    shard: str
    number: int
    record: Record
    dropped: bool


class ShardSearch:
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

    def find(self, manifest: Manifest, document: str, hints: Iterable[str] = ()) -> Hit | None:
        """Where a corpus has a document; first where its id was met, then where its parent had it."""
        names = {f"{folder}{hint}" for hint in hints for folder in ("", "dropped/")}
        held = [shard for shard in (*manifest.shards, *manifest.aside) if shard.name.endswith(JSONL)]
        for shard in sorted(held, key=lambda s: (document not in self._ids.get(s.blob, ()), s.name not in names)):
            if shard.name.startswith("rejected/"):
                continue
            hit = self._in_shard(shard.blob, document)
            if hit:
                return Hit(shard.name.removeprefix("dropped/"), *hit, dropped=shard.name.startswith("dropped/"))
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
