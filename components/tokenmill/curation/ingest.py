"""Format: any file to normalised records, by type and language (report §3.1.1; spec 1.2.1).

A record is the contract of every later step: id, text, type, lang, source, path, scores, and what the file knew
besides (title, url, date, dump, question, answer). What cannot be read is rejected with its place; nothing vanishes.
"""

import gzip
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import message_from_string
from functools import cache
from hashlib import sha256
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import orjson
import zstandard

from tokenmill.curation.config import IngestConfig
from tokenmill.curation.sources import DUMPS, is_file, told
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import Drop, Keep, Reject, StepContext, step
from tokenmill.store.layout import TOMBSTONES

Outcome = Keep | Drop | Reject
LANGUAGES = ("en", "zh")
KNOWN_FIELDS = ("title", "url", "date", "dump", "question", "answer", "task")
CODE_LANGUAGES = {
    "py": "python", "pyi": "python", "c": "c", "h": "c", "cc": "cpp", "cpp": "cpp", "cxx": "cpp", "hpp": "cpp",
    "js": "javascript", "mjs": "javascript", "jsx": "javascript", "ts": "typescript", "tsx": "typescript",
    "java": "java", "go": "go", "rs": "rust", "rb": "ruby", "php": "php", "scala": "scala", "kt": "kotlin",
    "swift": "swift", "sh": "shell", "sql": "sql", "html": "html", "css": "css", "toml": "toml", "yaml": "yaml",
    "yml": "yaml", "json": "json", "ini": "ini", "cfg": "ini", "md": "markdown", "rst": "text", "txt": "text",
}  # fmt: skip


LIBRARIES = ("trafilatura", "py3langid", "charset-normalizer")


@step("curation.ingest", version=2, libraries=LIBRARIES, kinds={"sources": "sources"})
def ingest(config: IngestConfig, sources: Manifest, ctx: StepContext) -> Draft:
    """Read every source file into records, partitioned by type and language."""
    taken_down = frozenset(chain.from_iterable(told(ctx.store, sources, TOMBSTONES).values()))
    dumps = told(ctx.store, sources, DUMPS)
    files = []
    for shard in sorted(filter(is_file, sources.shards), key=lambda s: s.name):
        kind, source, relative = shard.name.split("/", 2)
        path = ctx.store.blob_path(shard.blob)
        files.append(SourceFile(path, kind, source, relative, dumps.get(source), taken_down))
    outcomes = (outcome for file in ctx.parallel(read_source_file, files, "files") for outcome in file)
    return ctx.partition(outcomes, max_rejected=config.max_rejected, shard_records=config.shard_records)


@dataclass(frozen=True)
class SourceFile:
    """One registered file and what its source says of it."""

    path: Path
    type: str
    source: str
    relative: str
    dump: str | None = None
    taken_down: frozenset[str] = frozenset()
    """Ids of documents that are left out, and nothing kept of them but where they were."""


def read_source_file(file: SourceFile) -> list[Outcome]:
    """The records of one file, in order; unreadable parts as rejects, files of no known format as drops."""
    where = f"{file.source}/{file.relative}"
    name = PurePosixPath(file.relative)
    try:
        data = _decompressed(file.path.read_bytes(), name.suffix)
    except (zstandard.ZstdError, OSError, EOFError) as broken:
        return [Reject(f"not decompressible ({broken})", where)]
    if name.suffix in (".gz", ".zst"):
        name = name.with_suffix("")
    reader = _reader(name, file.type)
    if reader is None:
        return [
            Drop("unsupported_format", _record(file, 0, "", {}, "none"), name.suffix or name.name, "a known format")
        ]
    outcomes: list[Outcome] = []
    for ordinal, found in enumerate(reader(data)):
        if isinstance(found, Unreadable):
            outcomes.append(Reject(found.reason, where + found.place))
            continue
        text, fields = found
        if not text.strip():
            outcomes.append(Drop("empty", _record(file, ordinal, "", fields, "none"), 0, "≥ 1 visible character"))
            continue
        lang = CODE_LANGUAGES[name.suffix[1:].lower()] if file.type == "code" else language(text, fields.get("lang"))
        record = _record(file, ordinal, text, fields, lang)
        if record["id"] in file.taken_down:
            outcomes.append(Drop("taken_down", {name: record[name] for name in ("id", "source", "path")}))
        else:
            outcomes.append(Keep(record))
    return outcomes


def _record(file: SourceFile, ordinal: int, text: str, fields: dict[str, Any], lang: str) -> dict[str, Any]:
    identity = orjson.dumps([file.source, file.relative, ordinal, text])
    known = {key: str(fields[key]) for key in KNOWN_FIELDS if fields.get(key) is not None}
    return {
        "id": sha256(identity).hexdigest()[:16],
        "text": text,
        "type": file.type,
        "lang": lang,
        "source": file.source,
        "path": file.relative,
        "scores": {},
    } | ({"dump": file.dump} if file.dump else {}) | known  # fmt: skip


# --- readers: bytes → (text, fields), or what could not be read -----------------------------------------------------


@dataclass(frozen=True)
class Unreadable:
    reason: str
    place: str = ""


Found = tuple[str, dict[str, Any]] | Unreadable
Reader = Callable[[bytes], Iterator[Found]]


def _reader(name: PurePosixPath, kind: str) -> Reader | None:
    suffix = name.suffix.lower()
    if kind == "code":
        return read_text if suffix[1:] in CODE_LANGUAGES else None
    if name.name == "METADATA":
        return read_package_page
    return READERS.get(suffix)


def read_text(data: bytes) -> Iterator[Found]:
    """A whole file as one document."""
    text = decode(data)
    yield Unreadable("undecodable text") if text is None else (text, {})


def read_html(data: bytes) -> Iterator[Found]:
    """The main text of a web page; comments, menus and footers are left out."""
    import trafilatura

    page = decode(data)
    if page is None:
        yield Unreadable("undecodable text")
        return
    text = trafilatura.extract(page, include_comments=False) or ""
    metadata = trafilatura.extract_metadata(page)
    yield text, {"title": metadata.title, "url": metadata.url, "date": metadata.date} if metadata else {}


def read_jsonl(data: bytes) -> Iterator[Found]:
    """One document a line, in the field `text` or `content`."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            try:
                yield _from_json(orjson.loads(line), f" line {number}")
            except orjson.JSONDecodeError as broken:
                yield Unreadable(f"not JSON ({broken})", f" line {number}")


def read_json(data: bytes) -> Iterator[Found]:
    """A list of texts or of records."""
    try:
        items = orjson.loads(data)
    except orjson.JSONDecodeError as broken:
        yield Unreadable(f"not JSON ({broken})")
        return
    if not isinstance(items, list):
        yield Unreadable("neither a list of texts nor of records")
        return
    for number, item in enumerate(items, 1):
        yield _from_json(item, f" item {number}")


def read_package_page(data: bytes) -> Iterator[Found]:
    """The project page of a Python distribution: the body of its METADATA."""
    text = decode(data)
    if text is None:
        yield Unreadable("undecodable text")
        return
    message = message_from_string(text)
    body, links = message.get_payload(), [u.partition(",")[2].strip() for u in message.get_all("Project-URL", [])]
    yield str(body), {"title": message["Name"], "url": message["Home-page"] or next(iter(links), None)}


READERS: dict[str, Reader] = {
    ".txt": read_text, ".md": read_text, ".rst": read_text, ".html": read_html, ".htm": read_html,
    ".jsonl": read_jsonl, ".json": read_json,
}  # fmt: skip


def _from_json(item: Any, place: str) -> Found:
    if isinstance(item, str):
        return item, {}
    if not isinstance(item, dict):
        return Unreadable("neither a text nor a record", place)
    text = item.get("text", item.get("content"))
    if not isinstance(text, str):
        return Unreadable("no text: a record needs the field `text` or `content`", place)
    return text, item


def _decompressed(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.decompress(data)
    return _unzstd(data) if suffix == ".zst" else data


def _unzstd(data: bytes) -> bytes:
    """Every frame, each to its end: zstandard's stream reader takes a torn last frame for the whole of it."""
    parts, frame = [], None
    for start in range(0, len(data), 1 << 20):
        rest = data[start : start + (1 << 20)]
        while rest:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            parts.append(frame.decompress(rest))
            rest, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame:
        raise EOFError("the end of its last zstd frame is missing")
    return b"".join(parts)


# --- encoding and language -------------------------------------------------------------------------------------------

_ENCODINGS = ["utf_16", "utf_32", "gb18030", "big5", "cp1252", "latin_1"]


def decode(data: bytes) -> str | None:
    """Text of unknown encoding: UTF-8 if it is, else the likeliest one in use for English and Chinese, else None."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        from charset_normalizer import from_bytes

        best = from_bytes(data, cp_isolation=_ENCODINGS, threshold=0.15).best()
        if best is None:
            return None
        text = str(best).removeprefix("\ufeff")
    return None if "\0" in text else text


_HAN = re.compile(r"[㐀-鿿豈-﫿]")


def language(text: str, stated: object = None) -> str:
    """`en` or `zh`: as the source states it, else by a model, offline (the report uses pycld2)."""
    if stated in LANGUAGES:
        return str(stated)
    sample = text[:4000]
    if len(_HAN.findall(sample)) > 0.3 * len(sample):
        return "zh"
    return str(_identifier().classify(sample)[0])


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(LANGUAGES))
    return identifier
