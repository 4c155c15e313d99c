"""Shards on disk: JSONL.zst records, and the content digest of any file an artifact may hold.

The same records through another compressor give another file, so a digest is always taken over what is inside: the
uncompressed lines, or a safetensors file's raw tensors.
"""

import hashlib
import io
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import zstandard

from tokenmill.errors import CorruptError
from tokenmill.manifest import canonical

JSONL = ".jsonl.zst"
Record = dict[str, Any]


def write_jsonl(path: Path, records: Iterable[Record]) -> tuple[str, int]:
    """Write records, one JSON object a line, zstd-compressed.

    Returns:
        The content digest (over the uncompressed lines) and the number of records.
    """
    digest, count = hashlib.sha256(), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw, zstandard.ZstdCompressor(level=3).stream_writer(raw) as out:
        for record in records:
            line = orjson.dumps(record, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
            digest.update(line)
            out.write(line)
            count += 1
    return digest.hexdigest(), count


def read_lines(path: Path) -> Iterator[bytes]:
    """The uncompressed lines of a JSONL.zst file, one at a time."""
    with path.open("rb") as raw:
        try:
            reader = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw), 1 << 20)
            yield from reader
        except zstandard.ZstdError as broken:
            raise CorruptError(f"{path}: not a readable zstd stream ({broken}); restore it or rerun its step") from None


def read_jsonl(path: Path) -> Iterator[Record]:
    """The records of a JSONL.zst file."""
    for number, line in enumerate(read_lines(path), 1):
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as broken:
            raise CorruptError(f"{path} line {number}: not JSON ({broken})") from None


def content_digest(path: Path) -> str:
    """What a file *is*, whatever its compression or header order."""
    if path.name.endswith(".safetensors"):
        return _tensors_digest(path)
    digest = hashlib.sha256()
    if path.name.endswith(".zst"):
        for line in read_lines(path):
            digest.update(line)
    else:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _tensors_digest(path: Path) -> str:
    """A hash over (name, dtype, shape, bytes) of every tensor, in name order."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        length = int.from_bytes(data[:8], "little")
        if length > len(data) - 8:
            raise CorruptError(f"{path}: not a safetensors file (header of {length} bytes)")
        header = orjson.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        digest = hashlib.sha256()
        for name in sorted(header):
            tensor, (start, end) = header[name], header[name]["data_offsets"]
            digest.update(canonical([name, tensor["dtype"], tensor["shape"]]))
            digest.update(memoryview(data)[8 + length + start : 8 + length + end])
        return digest.hexdigest()
