"""Files as streams of decompressed bytes: bounded memory, torn ends seen, lines of any length survived.

What a person's disk holds is not to be trusted: a download that broke off, a line of 200 MB, a gzip member in the middle
that is damaged. Each is told apart from the rest of its file, and the rest is read.
"""

import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import zstandard

PIECE = 1 << 20
_ZSTD_PIECE = 1 << 13
"""Compressed bytes at a time: a zstd block of 4 bytes may stand for 128 KiB, so one such piece is 256 MiB at the most."""
_GZIP_START = b"\x1f\x8b\x08"
COMPRESSED = {".gz": "gz", ".tgz": "gz", ".zst": "zst"}


class UnreadableError(Exception):
    """The rest of a file cannot be read: why. Met by a reader's caller, it becomes a reject."""


@dataclass(frozen=True)
class Gap:
    """Bytes were lost here; what follows is another gzip member."""

    reason: str


@dataclass(frozen=True)
class TooLong:
    """A line that was not held in memory."""

    size: int


@dataclass(frozen=True)
class Limits:
    document_bytes: int = 64_000_000
    """Of one document: a line, a page, a file that is one text."""
    archive_bytes: int = 16_000_000_000
    """Of all that an archive unpacks to."""
    archive_files: int = 200_000


@dataclass(frozen=True)
class Opened:
    """One file to read: its bytes on disk or in memory, its name without the compression's suffix, and the limits."""

    name: PurePosixPath
    source: Path | bytes
    compression: str = ""
    type: str = "web"
    fields: Mapping[str, str] = field(default_factory=dict)
    """Our name → the name in this source's rows."""
    limits: Limits = field(default_factory=Limits)
    dump: str | None = None
    """Crawl dump, if the source says it."""

    @classmethod
    def named(cls, name: PurePosixPath, source: Path | bytes, **more: Any) -> "Opened":
        """A file by its full name: the last suffix may tell its compression."""
        compression = COMPRESSED.get(name.suffix.lower(), "")
        bare = name.with_suffix(".tar" if name.suffix.lower() == ".tgz" else "") if compression else name
        return cls(bare, source, compression, **more)

    @property
    def max_bytes(self) -> int:
        return self.limits.document_bytes

    def pieces(self) -> Iterator[bytes]:
        """Decompressed bytes, some at a time.

        Raises:
            UnreadableError: after all that comes before the tear.
        """
        for piece in self.pieces_and_gaps():
            if isinstance(piece, Gap):
                raise UnreadableError(f"not decompressible ({piece.reason})")
            yield piece

    def pieces_and_gaps(self) -> Iterator[bytes | Gap]:
        """As `pieces`; after a damaged gzip member it goes on with the next."""
        with io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb") as raw:
            if self.compression == "gz":
                yield from _gunzipped(raw)
            elif self.compression == "zst":
                yield from unzstd(raw)
            else:
                while piece := raw.read(PIECE):
                    yield piece

    def whole(self) -> bytes:
        """All of it.

        Raises:
            UnreadableError: it is larger than `max_bytes`, or torn.
        """
        parts, size = [], 0
        for piece in self.pieces():
            parts.append(piece)
            size += len(piece)
            if size > self.max_bytes:
                raise UnreadableError(f"too large (more than {self.max_bytes:,} bytes in one document)")
        return b"".join(parts)

    def lines(self) -> Iterator[bytes | TooLong]:
        """Lines without their line feed; one of more than `max_bytes` only by its size. A byte order mark is left out.

        Raises:
            UnreadableError: after the last whole line before a tear.
        """
        held, size, first = list[bytes](), 0, True
        for piece in self.pieces():
            if first:
                piece, first = piece.removeprefix(b"\xef\xbb\xbf"), False
            *ended, rest = piece.split(b"\n")
            for part in ended:
                size += len(part)
                held.append(part)
                yield b"".join(held) if size <= self.max_bytes else TooLong(size)
                held, size = [], 0
            size += len(rest)
            held = [*held, rest] if size <= self.max_bytes else []
        if size:
            yield b"".join(held) if size <= self.max_bytes else TooLong(size)


class Stream(io.RawIOBase):
    """Pieces as a file object to read forward, for libraries that want one."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces, self._held = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed asks for its private buffer type
        while not self._held:
            self._held = next(self._pieces, b"")
            if not self._held:
                return 0
        n = min(len(buffer), len(self._held))
        buffer[:n], self._held = self._held[:n], self._held[n:]
        return n


def _gunzipped(raw: io.BufferedIOBase) -> Iterator[bytes | Gap]:
    """Every member in pieces; a damaged one is a gap up to the next that starts and can be read."""
    data = raw.read(PIECE)
    while data:
        member = zlib.decompressobj(31)
        while not member.eof:
            try:
                piece = member.decompress(data, PIECE)
            except zlib.error as broken:
                yield Gap(f"{broken}; near compressed byte {raw.tell() - len(data)}")
                data = _next_member(raw, data[1:])
                break
            if piece:
                yield piece
            data = member.unused_data if member.eof else member.unconsumed_tail or raw.read(PIECE)
            if not data and not member.eof:
                yield Gap("the end of its last gzip member is missing")
                return
        while not data.strip(b"\0"):  # the next member, after any padding
            data = raw.read(PIECE)
            if not data:
                return
        data = data.lstrip(b"\0")


def _next_member(raw: io.BufferedIOBase, data: bytes) -> bytes:
    """What is left from the next gzip header on; empty at the end."""
    while (at := data.find(_GZIP_START)) < 0:
        more = raw.read(PIECE)
        if not more:
            return b""
        data = data[-2:] + more
    return data[at:]


def unzstd(raw: io.BufferedIOBase, piece_bytes: int = _ZSTD_PIECE) -> Iterator[bytes | Gap]:
    """Every frame, each to its end: zstandard's stream reader takes a torn last frame for the whole of it.

    Args:
        piece_bytes: compressed bytes at a time. Of a file of our own they may be more: it is no bomb.
    """
    frame = None
    while rest := raw.read(piece_bytes):
        while rest:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                piece = frame.decompress(rest)
            except zstandard.ZstdError as broken:
                yield Gap(str(broken))
                return
            if piece:
                yield piece
            rest, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame:
        yield Gap("the end of its last zstd frame is missing")
