"""Formats by file name: which reader takes a file, and the readers of the plain ones (text, HTML, JSONL, JSON)."""

from collections.abc import Callable, Iterator
from email import message_from_string
from pathlib import PurePosixPath

from tokenmill.curation.encoding import decode
from tokenmill.curation.fields import from_row
from tokenmill.curation.found import Document, Found, Reader, Unreadable
from tokenmill.curation.read_archive import is_archive, read_archive
from tokenmill.curation.read_html import page_document
from tokenmill.curation.read_parquet import read_parquet
from tokenmill.curation.read_pdf import read_pdf
from tokenmill.curation.read_warc import read_warc
from tokenmill.rows import Damaged, Rows, json_rows, jsonl_rows
from tokenmill.streams import Opened

CODE_LANGUAGES = {
    "py": "python", "pyi": "python", "c": "c", "h": "c", "cc": "cpp", "cpp": "cpp", "cxx": "cpp", "hpp": "cpp",
    "js": "javascript", "mjs": "javascript", "jsx": "javascript", "ts": "typescript", "tsx": "typescript",
    "java": "java", "go": "go", "rs": "rust", "rb": "ruby", "php": "php", "scala": "scala", "kt": "kotlin",
    "swift": "swift", "sh": "shell", "sql": "sql", "html": "html", "css": "css", "toml": "toml", "yaml": "yaml",
    "yml": "yaml", "json": "json", "ini": "ini", "cfg": "ini", "md": "markdown", "rst": "text", "txt": "text",
}  # fmt: skip
"""File suffix → language of a repository's file."""


def reader_for(name: PurePosixPath, kind: str, *, inside: bool = False) -> Reader | None:
    """The reader of a file of that name (without a compression's suffix); None if no format is known by it.

    Args:
        name: its path.
        kind: type of the source's documents; of a `code` source every known file is one document.
        inside: whether it lies in an archive: archives in archives stay closed.
    """
    suffix = name.suffix.lower()
    if is_archive(name) and not inside:
        return lambda opened: read_archive(opened, reader_for)
    if kind == "code":
        return read_text if suffix[1:] in CODE_LANGUAGES else None
    if name.name == "METADATA":
        return read_package_page
    return READERS.get(suffix)


def read_text(opened: Opened) -> Iterator[Found]:
    """A whole file as one document."""
    yield _text_or_not(opened, Document)


def read_html(opened: Opened) -> Iterator[Found]:
    """The main text of a web page; comments, menus and footers are left out."""
    yield page_document(opened.whole())


def read_jsonl(opened: Opened) -> Iterator[Found]:
    """One document a line, as `fields.from_row` takes it."""
    return _documents(jsonl_rows(opened), opened)


def read_json(opened: Opened) -> Iterator[Found]:
    """A list of texts or of records."""
    return _documents(json_rows(opened, "neither a list of texts nor of records"), opened)


def _documents(rows: Rows, opened: Opened) -> Iterator[Found]:
    for row in rows:
        if isinstance(row, Damaged):
            yield Unreadable(row.reason, row.place)
        else:
            yield from_row(row.value, row.place, opened.fields)


def read_package_page(opened: Opened) -> Iterator[Found]:
    """The project page of a Python distribution: the body of its METADATA."""
    yield _text_or_not(opened, _project_page)


def _project_page(text: str) -> Document:
    message = message_from_string(text)
    body, links = message.get_payload(), [u.partition(",")[2].strip() for u in message.get_all("Project-URL", [])]
    return Document(str(body), {"title": message["Name"], "url": message["Home-page"] or next(iter(links), None)})


def _text_or_not(opened: Opened, make: Callable[[str], Document]) -> Found:
    text = decode(opened.whole())
    return Unreadable("undecodable text") if text is None else make(text)


READERS: dict[str, Reader] = {
    ".txt": read_text, ".md": read_text, ".markdown": read_text, ".rst": read_text, ".html": read_html,
    ".htm": read_html, ".jsonl": read_jsonl, ".ndjson": read_jsonl, ".json": read_json, ".pdf": read_pdf,
    ".parquet": read_parquet, ".warc": read_warc, ".arc": read_warc,
}  # fmt: skip
"""File suffix → reader, of all types but `code`."""
