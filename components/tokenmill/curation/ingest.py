"""Format: any file to normalised records, by type and language (report §3.1.1; spec 1.2.1).

A record is the contract of every later step: id, text, type, lang, source, path, scores, and what the file knew
besides (title, url, date, dump, question, answer). What cannot be read is rejected with its place; nothing vanishes.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from tokenmill.curation.encoding import invisible_share
from tokenmill.curation.fields import KNOWN_FIELDS
from tokenmill.curation.found import Document, Found, Skipped, Unreadable
from tokenmill.curation.read_archive import KNOWN_FORMAT
from tokenmill.curation.readers import CODE_LANGUAGES, reader_for
from tokenmill.curation.source_config import IngestConfig
from tokenmill.language import language
from tokenmill.manifest import Draft, Manifest, Shard, canonical
from tokenmill.registered import DUMPS, FIELDS, MEMBER, is_document, told
from tokenmill.steps import Drop, Keep, Reject, StepContext, step
from tokenmill.store import ArtifactStore
from tokenmill.store.layout import TOMBSTONES
from tokenmill.streams import Limits, Opened, UnreadableError

Outcome = Keep | Drop | Reject
PART_BYTES, PART_FILES = 4_000_000, 250
"""Files are read by parts of about this many bytes and at most so many files; a larger file is a part of its own."""
MAX_INVISIBLE = 0.5
"""Share of invisible characters above which a text is a flood of them (ours; Persian and emoji in prose stay below 0.2)."""


LIBRARIES = ("trafilatura", "py3langid", "charset-normalizer", "warcio", "pypdf", "pyarrow")


@step("curation.ingest", version=5, libraries=LIBRARIES, kinds={"sources": "sources"})
def ingest(config: IngestConfig, sources: Manifest, ctx: StepContext) -> Draft:
    """Read every source file into records, partitioned by type and language."""
    shards = sorted(filter(is_document, sources.shards), key=lambda s: s.name)
    read = ReadFiles(
        ctx.store,
        dumps=told(ctx.store, sources, DUMPS),
        fields=told(ctx.store, sources, FIELDS),
        taken_down=frozenset(chain.from_iterable(told(ctx.store, sources, TOMBSTONES).values())),
        limits=Limits(config.max_document_bytes, config.max_archive_bytes, config.max_archive_files),
    )
    return ctx.partition_parts(
        read,
        {_part_name(part): part for part in parts_of(shards)},
        what="files",
        max_rejected=config.max_rejected,
        shard_records=config.shard_records,
    )


def parts_of(files: Iterable[Shard]) -> Iterator[tuple[Shard, ...]]:
    """Consecutive files, as many as one worker reads at a stretch: decided by the files alone."""
    part, size = list[Shard](), 0
    for file in files:
        if part and (size + file.size > PART_BYTES or len(part) == PART_FILES):
            yield tuple(part)
            part, size = [], 0
        part.append(file)
        size += file.size
    if part:
        yield tuple(part)


def _part_name(part: tuple[Shard, ...]) -> str:
    return sha256(canonical([[file.name, file.content] for file in part])).hexdigest()


@dataclass(frozen=True)
class ReadFiles:
    """Reads parts of a sources manifest, in a worker process."""

    store: ArtifactStore
    dumps: Mapping[str, str]
    fields: Mapping[str, Mapping[str, str]]
    taken_down: frozenset[str]
    limits: Limits

    def __call__(self, part: Iterable[Shard]) -> Iterator[Outcome]:
        for shard in part:
            kind, source, relative = shard.name.split("/", 2)
            yield from read_source_file(
                SourceFile(
                    self.store.blob_path(shard.blob),
                    kind,
                    source,
                    relative,
                    self.dumps.get(source),
                    self.taken_down,
                    self.fields.get(source, {}),
                    self.limits,
                )
            )


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
    fields: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)


def read_source_file(file: SourceFile) -> Iterator[Outcome]:
    """The records of one file, in order; unreadable parts as rejects, files of no known format as drops."""
    name = PurePosixPath(file.relative)
    opened = Opened.named(name, file.path, type=file.type, fields=file.fields, limits=file.limits, dump=file.dump)
    reader = reader_for(opened.name, file.type)
    if reader is None:
        yield Drop("unsupported_format", _record(file, "", 0, "", {}, "none"), name.suffix or name.name, KNOWN_FORMAT)
        return
    member: str | None = None
    ordinal = 0
    for found in _told(reader(opened)):
        ordinal = ordinal + 1 if found.member == member else 0
        member = found.member
        yield _outcome(file, opened.name, ordinal, found)


def _told(found: Iterator[Found]) -> Iterator[Found]:
    """With what a reader meets in the end."""
    try:
        yield from found
    except UnreadableError as broken:
        yield Unreadable(str(broken))


def _outcome(file: SourceFile, name: PurePosixPath, ordinal: int, found: Found) -> Outcome:
    where = f"{file.source}/{file.relative}" + (f"{MEMBER}{found.member}" if found.member else "")
    if isinstance(found, Unreadable):
        return Reject(found.reason, where + found.place)
    if isinstance(found, Skipped):
        record = _record(file, found.member, ordinal, "", found.fields, "none")
        return Drop(found.reason, record, found.value, found.threshold)
    text, fields = found.text, found.fields
    if "\0" in text:
        return Reject("text with NUL characters", f"{where} document {ordinal + 1}")
    if not text.isascii() and not _is_unicode(text):
        return Reject("text with half a surrogate pair", f"{where} document {ordinal + 1}")
    if not text.strip():
        return Drop("empty", _record(file, found.member, ordinal, "", fields, "none"), 0, "≥ 1 visible character")
    if not text.isascii() and (share := invisible_share(text)) > MAX_INVISIBLE:
        return Drop(
            "zero_width_flood",
            _record(file, found.member, ordinal, text, fields, "none"),
            round(share, 4),
            MAX_INVISIBLE,
        )
    record = _record(file, found.member, ordinal, text, fields, _language(file, name, found))
    if record["id"] in file.taken_down:
        told = {name: record[name] for name in ("id", "source", "path")}  # and not a word of the text
        return Drop("taken_down", told, value=record["id"], threshold="no document taken down")
    return Keep(record)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _language(file: SourceFile, name: PurePosixPath, found: Document) -> str:
    if file.type != "code":
        return language(found.text, found.fields.get("lang"))
    suffix = Opened.named(PurePosixPath(found.member), b"").name.suffix if found.member else name.suffix
    return CODE_LANGUAGES[suffix[1:].lower()]


def _record(
    file: SourceFile, member: str, ordinal: int, text: str, fields: Mapping[str, Any], lang: str
) -> dict[str, Any]:
    path = f"{file.relative}{MEMBER}{member}" if member else file.relative
    identity = orjson.dumps([file.source, path, ordinal, text])
    known = {key: str(fields[key]) for key in (*KNOWN_FIELDS, "licence_file") if fields.get(key) is not None}
    extra = {"extra": fields["extra"]} if fields.get("extra") else {}
    return {
        "id": sha256(identity).hexdigest()[:16],
        "text": text,
        "type": file.type,
        "lang": lang,
        "source": file.source,
        "path": path,
        "scores": fields.get("scores") or {},
    } | ({"dump": file.dump} if file.dump else {}) | known | extra  # fmt: skip
