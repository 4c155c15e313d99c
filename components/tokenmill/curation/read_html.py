"""Web pages to their main text, by trafilatura (report §3.1.1). A page is hostile input: its size and depth are bounded."""

import re
from typing import Any

from tokenmill.curation.encoding import decode
from tokenmill.curation.found import Document, Found, Unreadable

PAGE_BYTES = 5 << 20
"""Of one page: where Common Crawl cuts. Extraction takes a hundred times a page's size in memory (785 MB for 7.9 MB)."""
DEPTH = 500
"""Open elements at once. Real pages stay below 100; extraction recurses with depth and would end the process."""
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.IGNORECASE)
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*+)([^<>]*+)>")
_ALONE = frozenset(
    "area base br col embed hr img input link meta param source track wbr p li dt dd option tr td th".split()  # noqa: SIM905 - a list would fill a screen
)
"""Elements without an end tag, or whose end tag is often left out: they do not count as depth."""


def page_document(data: bytes, charset: str = "") -> Found:
    """The main text of a page, with its title, url and date.

    Args:
        data: the page as it came.
        charset: encoding that its HTTP header states, if any.
    """
    if len(data) > PAGE_BYTES:
        return Unreadable(f"too large (a page of {len(data):,} bytes; at most {PAGE_BYTES:,})")
    page = decode(data, charset or _stated(data))
    if page is None:
        return Unreadable("undecodable text")
    if (depth := nesting(page)) > DEPTH:
        return Unreadable(f"nested too deep ({depth:,} elements in each other; at most {DEPTH})")
    try:
        return _extracted(page)
    except Exception as broken:  # a parser of hostile input raises whatever its author did not think of
        return Unreadable(f"no readable page ({type(broken).__name__}: {broken!s:.80})")


def _extracted(page: str) -> Document:
    import trafilatura

    text = trafilatura.extract(page, include_comments=False) or ""
    metadata: Any = trafilatura.extract_metadata(page)
    return Document(text, {"title": metadata.title, "url": metadata.url, "date": metadata.date} if metadata else {})


def _stated(data: bytes) -> str:
    match = _CHARSET.search(data[:4096])
    return match[1].decode() if match else ""


def nesting(page: str) -> int:
    """An upper estimate of how deep elements are nested, in one pass and without recursion."""
    depth = deepest = 0
    for match in _TAG.finditer(page):
        end, name, attributes = match.groups()
        if attributes.endswith("/") or name.lower() in _ALONE:
            continue
        depth = max(0, depth - 1) if end else depth + 1
        deepest = max(deepest, depth)
    return deepest
