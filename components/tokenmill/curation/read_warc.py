"""WARC and ARC to documents: the HTML and plain text responses of a crawl, by warcio.

Records are cut out of the stream here, by their own length where that holds and by the next record's start where it does
not, and each is given to warcio alone: a broken record costs itself and no other.
"""

import io
import re
from collections.abc import Iterator
from typing import Any

from tokenmill.curation.encoding import decode
from tokenmill.curation.found import Document, Found, Skipped, Unreadable
from tokenmill.curation.read_html import page_document
from tokenmill.streams import Gap, Opened

HEADER_BYTES = 1 << 16
_WARC_START = re.compile(rb"WARC/\d\.\d\r?\n")
_NEXT_START = re.compile(rb"\nWARC/\d\.\d\r?\n")
_ARC_START = re.compile(rb"[a-z][a-z0-9+.-]*:[^ \n]* [^ \n]+ \d{14} [^ \n]+ (?:[^ \n]+ )*\d+\r?\n", re.IGNORECASE)
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,15})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_DUMP = re.compile(r"CC-MAIN-(\d{4}-\d{2})(?!\d)")
_PAGES = ("text/html", "application/xhtml+xml")


def read_warc(opened: Opened) -> Iterator[Found]:
    """One document a response of HTML or plain text, with its url, date and, if it is told, crawl dump."""
    dump = _DUMP.search(str(opened.name))
    known = opened.dump or (dump[1] if dump else None)
    for number, (offset, raw) in enumerate(_Records(opened), 1):
        place = f" record {number} at byte {offset}"
        if isinstance(raw, Unreadable):
            yield Unreadable(raw.reason, place)
            continue
        try:
            found = _response(raw, place, opened.max_bytes)
        except Exception as broken:  # a parser of hostile input raises whatever its author did not think of
            found = Unreadable(f"broken WARC record ({type(broken).__name__}: {broken!s:.80})", place)
        if isinstance(found, str):
            known = known or found or None
        elif isinstance(found, Document) and known:
            yield Document(found.text, found.fields | {"dump": known})
        elif found:
            yield found


def _response(raw: bytes, place: str, max_bytes: int) -> Found | str | None:
    """What a record holds: a document, or a crawl's dump if it is a warcinfo, or nothing to read (requests, metadata)."""
    from warcio.archiveiterator import ArchiveIterator  # type: ignore[import-untyped]

    is_arc = not raw.startswith(b"WARC/")
    record = next(iter(ArchiveIterator(io.BytesIO(raw), arc2warc=is_arc)))
    if record.rec_type == "warcinfo":
        dump = _DUMP.search(record.raw_stream.read(HEADER_BYTES).decode("utf-8", "replace"))
        return dump[1] if dump else ""
    if record.rec_type not in ("response", "resource", "conversion"):
        return None
    headers = record.rec_headers
    fields: dict[str, Any] = {"url": headers.get_header("WARC-Target-URI"), "date": headers.get_header("WARC-Date")}
    status = record.http_headers.get_statuscode() if record.http_headers else "200"
    if record.rec_type == "response" and status != "200":
        return Skipped("http_status", status or "none", "200", fields=fields)
    kind, charset = _content_type(record)
    if kind not in (*_PAGES, "text/plain"):
        return Skipped("unsupported_format", kind or "none", "HTML or plain text", fields=fields)
    body = record.content_stream().read(max_bytes + 1)
    if len(body) > max_bytes:
        return Unreadable(f"too large (a body of more than {max_bytes:,} bytes)", place)
    return _document(body, kind, charset, fields, place)


def _document(body: bytes, kind: str, charset: str, fields: dict[str, Any], place: str) -> Found:
    if kind == "text/plain":
        text = decode(body, charset)
        return Unreadable("undecodable text", place) if text is None else Document(text, fields)
    page = page_document(body, charset)
    if isinstance(page, Unreadable):
        return Unreadable(page.reason, place)
    assert isinstance(page, Document)
    return Document(page.text, page.fields | {key: value for key, value in fields.items() if value})


def _content_type(record: Any) -> tuple[str, str]:
    """(media type, charset) of the body, in small letters."""
    headers = record.http_headers or record.rec_headers
    kind, _, more = (headers.get_header("Content-Type") or "").lower().partition(";")
    charset = re.search(r"charset\s*=\s*[\"']?([\w:.-]{2,40})", more)
    return kind.strip(), charset[1] if charset else ""


class _Records:
    """The raw records of a WARC or ARC stream: (offset in the decompressed stream, bytes or why there are none)."""

    def __init__(self, opened: Opened):
        self._pieces = opened.pieces_and_gaps()
        self._max_bytes = opened.max_bytes
        self._held = b""
        self._offset = 0
        self._gap = ""

    def __iter__(self) -> Iterator[tuple[int, bytes | Unreadable]]:
        while True:
            self._skip_blank_lines()
            at = self._offset
            if not self._held:
                if self._gap:
                    yield at, Unreadable(self._told_gap())
                elif not self._fill(1):
                    return
                continue
            self._fill(HEADER_BYTES)
            if _WARC_START.match(self._held):
                yield at, self._warc()
            elif _ARC_START.match(self._held):
                yield at, self._arc()
            else:
                yield at, Unreadable(f"broken WARC record (no record starts with {bytes(self._held[:20])!r})")
                self._to_next_record(1)

    def _warc(self) -> bytes | Unreadable:
        end = re.search(rb"\r?\n\r?\n", self._held[:HEADER_BYTES])
        length = _LENGTH.search(self._held, 0, end.end()) if end else None
        if end and _NEXT_START.search(self._held, 1, end.end()):
            self._to_next_record(1)
            return Unreadable("broken WARC record (another starts in its header)")
        if not end or not length:
            self._to_next_record(1)
            return Unreadable(
                "broken WARC record (no end of its header)" if not end else "broken WARC record (no length)"
            )
        return self._cut(end.end(), int(length[1]))

    def _arc(self) -> bytes | Unreadable:
        line = self._held[: self._held.index(b"\n") + 1]
        return self._cut(len(line), int(line.split()[-1]))

    def _cut(self, header: int, length: int) -> bytes | Unreadable:
        """The record, if its length is true: behind it nothing, or the next record's start."""
        whole = header + length
        if length > self._max_bytes:
            self._skip(whole)
            return Unreadable(f"too large (a record of {length:,} bytes; at most {self._max_bytes:,})")
        if not self._fill(whole):
            reason = self._told_gap() if self._gap else "broken WARC record (cut off)"
            self._to_next_record(1)
            return Unreadable(reason)
        self._fill(whole + 64)
        behind = self._held[whole : whole + 64].lstrip(b"\r\n")
        ends_well = not behind or behind.startswith(b"WARC/") or self._held[whole : whole + 4] == b"\r\n\r\n"
        if not ends_well and not self._arc_follows(whole):
            self._to_next_record(header)
            return Unreadable("broken WARC record (its length is wrong)")
        record = self._held[:whole]
        self._drop(whole)
        return record

    def _arc_follows(self, at: int) -> bool:
        self._fill(at + HEADER_BYTES)
        rest = self._held[at : at + HEADER_BYTES].lstrip(b"\r\n")
        return bool(_ARC_START.match(rest))

    def _to_next_record(self, at: int) -> None:
        """Drop everything up to the next line that a WARC record starts with, or to the gap or the end."""
        while True:
            found = _NEXT_START.search(self._held, max(0, at - 1))
            if found:
                self._drop(found.start() + 1)
                return
            self._drop(max(0, len(self._held) - 16))
            at = 1
            if not self._fill(len(self._held) + 1):
                self._drop(len(self._held))
                return

    def _skip_blank_lines(self) -> None:
        while True:
            blank = len(self._held) - len(self._held.lstrip(b"\r\n"))
            self._drop(blank)
            if self._held or not self._fill(1):
                return

    def _skip(self, n: int) -> None:
        while n > len(self._held):
            n -= len(self._held)
            self._drop(len(self._held))
            if not self._fill(1):
                return
        self._drop(n)

    def _fill(self, n: int) -> bool:
        """Hold at least `n` bytes, if there are so many before the end or the next gap."""
        parts, size = [self._held], len(self._held)
        while size < n and not self._gap:
            piece = next(self._pieces, None)
            if piece is None:
                break
            if isinstance(piece, Gap):
                self._gap = piece.reason
            else:
                parts.append(piece)
                size += len(piece)
        self._held = b"".join(parts) if len(parts) > 1 else self._held
        return size >= n

    def _drop(self, n: int) -> None:
        self._held = self._held[n:]
        self._offset += n

    def _told_gap(self) -> str:
        reason, self._gap = self._gap, ""
        return f"not decompressible ({reason})"
