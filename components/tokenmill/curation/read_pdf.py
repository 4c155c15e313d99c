"""PDF to the text of its text layer, by pypdf. A scan has none: it needs OCR before it comes here."""

import io
import logging
from collections.abc import Iterator
from typing import Any

from tokenmill.curation.found import Document, Found, Unreadable
from tokenmill.streams import Opened

logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports every oddity that it mends


def read_pdf(opened: Opened) -> Iterator[Found]:
    """One document: its pages' text, an empty line between pages."""
    from pypdf import PdfReader

    data = opened.whole()
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            yield Unreadable("encrypted PDF: remove its password first")
            return
        pages = list(_pages(reader, opened.max_bytes))
        title = reader.metadata.title if reader.metadata else None
    except Exception as broken:  # a parser of hostile input raises whatever its author did not think of
        yield Unreadable(f"no readable PDF ({type(broken).__name__}: {broken!s:.80})")
        return
    text = "\n\n".join(pages)
    if not text.strip():
        yield Unreadable(f"no text layer ({len(pages)} pages, perhaps scanned: OCR comes first)")
        return
    yield Document(text, {"title": title or None})


def _pages(reader: Any, max_bytes: int) -> Iterator[str]:
    left = max_bytes
    for page in reader.pages:
        text = page.extract_text().strip()
        left -= len(text.encode("utf-8", "replace"))
        if left < 0:
            raise ValueError(f"more than {max_bytes:,} bytes of text")
        yield text
