"""Token shards: a corpus as integers, memory-mapped, with the document behind every token.

Each shard is two files: `<name>.tokens`, little-endian integers one document after another (`<s> … </s>`), and
`<name>.documents.jsonl.zst`, one record a document with its id, source, type, language, offset and length, and its epochs
where it has any. `meta.json` holds the integer type and the tokenizer's content digest.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import orjson

from tokenmill.errors import CorruptError
from tokenmill.records import read_jsonl

META, TOKENS, DOCUMENTS = "meta.json", ".tokens", ".documents.jsonl.zst"
IntArray = numpy.ndarray[Any, numpy.dtype[Any]]


def dtype_for(vocab_size: int) -> str:
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


@dataclass(frozen=True)
class Document:
    """One tokenised document."""

    id: str
    type: str
    lang: str
    source: str
    tokens: IntArray
    """Token ids, a view into the mapped shard."""
    heldout: bool
    epochs: int = 1
    """How often it is learned where others are learned once: code of the high tier, more than once (report §3.1.2)."""


def read_documents(folder: Path) -> Iterator[Document]:
    """Documents of a tokens artifact laid out in `folder`, in shard order; the ids stay memory-mapped."""
    meta = orjson.loads((folder / META).read_bytes())
    for index in sorted(folder.rglob("*" + DOCUMENTS)):
        data = _map(index.with_name(index.name.removesuffix(DOCUMENTS) + TOKENS), meta["dtype"])
        for record in read_jsonl(index):
            start, length = record["offset"], record["tokens"]
            if start + length > len(data):
                raise CorruptError(f"{index.name}: document {record['id']} reaches beyond its token file")
            yield Document(
                record["id"],
                record["type"],
                record["lang"],
                record["source"],
                data[start : start + length],
                record["heldout"],
                record.get("epochs", 1),
            )


def _map(path: Path, dtype: str) -> IntArray:
    if path.stat().st_size == 0:
        return numpy.zeros(0, dtype=dtype)
    with path.open("rb") as file:
        return numpy.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=dtype)
