"""Shards on disk: JSONL.zst records, and the content digest of any file an artifact may hold.

The same records through another compressor give another file, so a digest is always taken over what is inside: the
uncompressed lines, or a safetensors file's raw tensors.
"""

import hashlib
import io
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import orjson
import zstandard

from tokenmill.errors import CorruptError
from tokenmill.manifest import canonical
from tokenmill.streams import Gap, Stream, unzstd

JSONL = ".jsonl.zst"
Record = dict[str, Any]
FRAME = 8 << 20
"""Bytes of lines that are compressed at once, as a zstd frame of their own. A stream that is fed piece by piece looks for
matches on both sides of its ring buffer's end, which takes a tenth longer; real text becomes no smaller by it."""


def write_jsonl(path: Path, records: Iterable[Record]) -> tuple[str, int]:
    """Write records, one JSON object a line, zstd-compressed.

    Returns:
        The content digest (over the uncompressed lines) and the number of records.
    """
    with LineWriter(path) as out:
        for record in records:
            out.write(line_of(record))
    return out.digest, out.count


def line_of(record: Record) -> bytes:
    """A record's line: its keys in order, so that equal records are equal bytes."""
    return orjson.dumps(record, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


class LineWriter:
    """A JSONL.zst file that lines are being written to. Its bytes follow from the lines alone."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.count = 0
        self._sha = hashlib.sha256()
        self._zstd = zstandard.ZstdCompressor(level=3)
        self._out = path.open("wb")
        self._lines: list[bytes] = []
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def write(self, line: bytes) -> None:
        self._lines.append(line)
        self.count += 1
        self._size += len(line)
        if self._size >= FRAME:
            self._flush()

    def close(self) -> None:
        """Finish the file, if it is not finished yet."""
        if not self._out.closed:
            if self._lines or not self.count:  # a file of no lines is an empty frame
                self._flush()
            self._out.close()

    @property
    def digest(self) -> str:
        """The content digest, once all is written."""
        return self._sha.hexdigest()

    def _flush(self) -> None:
        block = b"".join(self._lines)
        self._lines, self._size = [], 0
        self._sha.update(block)
        self._out.write(self._zstd.compress(block))


def read_lines(path: Path) -> Iterator[bytes]:
    """The uncompressed lines of a JSONL.zst file, one at a time.

    Raises:
        CorruptError: it is no zstd, or breaks off; after all lines before that.
    """
    with path.open("rb") as raw:
        yield from io.BufferedReader(Stream(_pieces(path, raw)), 1 << 20)


def _pieces(path: Path, raw: io.BufferedReader) -> Iterator[bytes]:
    for piece in unzstd(raw, 1 << 16):
        if isinstance(piece, Gap):
            raise CorruptError(f"{path}: not a readable zstd stream ({piece.reason}); restore it or rerun its step")
        yield piece


def read_jsonl(path: Path) -> Iterator[Record]:
    """The records of a JSONL.zst file."""
    return (record for _, record in read_lines_and_records(path))


def read_lines_and_records(path: Path) -> Iterator[tuple[bytes, Record]]:
    """Every line of a JSONL.zst file and the record that it is."""
    for number, line in enumerate(read_lines(path), 1):
        try:
            yield line, orjson.loads(line)
        except orjson.JSONDecodeError as broken:
            raise CorruptError(f"{path} line {number}: not JSON ({broken})") from None


def is_its_bytes(name: str) -> bool:
    """Whether what a file of this name *is* are its very bytes: then its content is its sha256."""
    return not name.endswith((".safetensors", ".zst"))


def content_digest(path: Path, name: str = "") -> str:
    """What a file *is*, whatever its compression or header order.

    Args:
        name: by which its format is told, where it is stored under another.
    """
    name = name or path.name
    if name.endswith(".safetensors"):
        return _tensors_digest(path)
    digest = hashlib.sha256()
    if name.endswith(".zst"):
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
