"""Token shards: a corpus as integers, memory-mapped, with the document behind every token.

Each shard is two files: `<name>.tokens`, little-endian integers one document after another (`<s> … </s>`), and
`<name>.documents.jsonl.zst`, one record a document with its id, source, type, language, offset and length, and its epochs
where it has any. `meta.json` holds the integer type and the tokenizer's content digest.
"""

import hashlib
import mmap
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy
import orjson

from tokenmill.errors import CorruptError
from tokenmill.manifest import Manifest, Shard
from tokenmill.records import read_jsonl
from tokenmill.store import ArtifactStore

META, TOKENS, DOCUMENTS = "meta.json", ".tokens", ".documents.jsonl.zst"
IntArray = numpy.ndarray[Any, numpy.dtype[Any]]


def dtype_for(vocab_size: int) -> str:
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


class TokenShards:
    """The token files of an artifact, each mapped when it is first read and never copied.

    In a local store that is the blob itself. From S3 it is fetched once into the node's cache, which its ranks share.
    """

    def __init__(self, store: ArtifactStore, shards: Sequence[Shard], dtype: str) -> None:
        self.store, self.shards, self.dtype = store, shards, dtype
        self._mapped: dict[int, IntArray] = {}

    def __getitem__(self, number: int) -> IntArray:
        if number not in self._mapped:
            self._mapped[number] = _map(self.store.blob_path(self.shards[number].blob), self.dtype)
        return self._mapped[number]

    def __len__(self) -> int:
        return len(self.shards)


@dataclass(frozen=True)
class Documents:
    """Tokenised documents in shard order, as columns: a few bytes a document, whatever its length."""

    shards: TokenShards | Sequence[IntArray]
    kinds: tuple[tuple[str, str], ...]
    """Type and language, which `kind` counts from 0."""
    kind: IntArray
    shard: IntArray
    offset: IntArray
    """Of the document's first token in its shard."""
    length: IntArray
    identity: IntArray
    """`identity_of` its id."""
    heldout: IntArray
    epochs: IntArray
    """How often it is learned where others are learned once: code of the high tier, more than once (report §3.1.2)."""

    def __len__(self) -> int:
        return len(self.length)

    def where(self, chosen: IntArray) -> "Documents":
        """Those that a mask is true for."""
        columns = ("kind", "shard", "offset", "length", "identity", "heldout", "epochs")
        return replace(self, **{name: getattr(self, name)[chosen] for name in columns})

    def of_types(self, types: Collection[str]) -> "Documents":
        wanted = [number for number, (kind, _) in enumerate(self.kinds) if kind in types]
        return self.where(numpy.isin(self.kind, wanted))

    def tokens(self, number: int, start: int = 0, length: int | None = None) -> IntArray:
        """A document's ids, or `length` of them from `start`: a view into the mapped shard."""
        length = int(self.length[number]) - start if length is None else length
        first = int(self.offset[number]) + start
        return self.shards[int(self.shard[number])][first : first + length]


def identity_of(document_id: str) -> int:
    """64 bits that stand for a document's id: what a column can hold."""
    return int.from_bytes(hashlib.blake2b(document_id.encode(), digest_size=8).digest(), "little")


def read_documents(store: ArtifactStore, manifest: Manifest) -> Documents:
    """The documents of a tokens artifact; their ids stay where the store has them, and are read when they are needed."""
    dtype = orjson.loads(store.bytes_of(manifest.shard(META)))["dtype"]
    names = [shard.name.removesuffix(DOCUMENTS) for shard in manifest.shards if shard.name.endswith(DOCUMENTS)]
    names.sort(key=PurePosixPath)
    shards = [manifest.shard(name + TOKENS) for name in names]
    kinds: dict[tuple[str, str], int] = {}
    parts = [numpy.zeros(0, _ROW)]
    for number, name in enumerate(names):
        rows: list[tuple[int, ...]] = []
        held = shards[number].size // numpy.dtype(dtype).itemsize
        for record in read_jsonl(store.blob_path(manifest.shard(name + DOCUMENTS).blob)):
            if record["offset"] + record["tokens"] > held:
                raise CorruptError(f"{name}{DOCUMENTS}: document {record['id']} reaches beyond its token file")
            kind = kinds.setdefault((record["type"], record["lang"]), len(kinds))
            place = (kind, number, record["offset"], record["tokens"])
            rows.append((*place, identity_of(record["id"]), record["heldout"], record.get("epochs", 1)))
        parts.append(numpy.array(rows, dtype=_ROW))
    table = numpy.concatenate(parts)
    return Documents(
        TokenShards(store, shards, dtype), tuple(kinds), **{name: table[name] for name in _ROW.names or ()}
    )


_ROW = numpy.dtype(
    [
        ("kind", "i2"),
        ("shard", "i4"),
        ("offset", "i8"),
        ("length", "i8"),
        ("identity", "u8"),
        ("heldout", "?"),
        ("epochs", "i2"),
    ]
)


def _map(path: Path, dtype: str) -> IntArray:
    if path.stat().st_size == 0:
        return numpy.zeros(0, dtype=dtype)
    with path.open("rb") as file:
        return numpy.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=dtype)
