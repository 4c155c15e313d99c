"""Archives of files, mostly of repositories: tar (also .tgz, .tar.gz, .tar.zst) and zip, read in memory.

Nothing is written to disk, so no name in an archive can reach anything; names that would (absolute ones, `..`), links and
devices are set aside all the same, and an archive that unpacks to too much is left where the limit is met.
"""

import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tokenmill.curation.found import Document, Found, Reader, Skipped, Unreadable
from tokenmill.streams import Opened, Stream, UnreadableError

KNOWN_FORMAT = "a known format"
ReaderFor = Callable[..., Reader | None]
_LICENCE = re.compile(r"(?:un)?licen[cs]e|copying|copyright", re.IGNORECASE)
_SKIPPED = {"__pycache__", "node_modules"}
_Broken = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True)
class _Member:
    name: str
    kind: str
    """`file`, `link` or `device`; folders are not listed."""
    size: int
    open: Callable[[], IO[bytes] | None]


def read_archive(opened: Opened, reader_for: ReaderFor) -> Iterator[Found]:
    """The documents of every member that has a known format, under its path below the archive's one root folder.

    Records of a repository carry `licence_file`, the path of the licence that lies in it, if one does.
    """
    members = _zip if opened.name.suffix.lower() == ".zip" else _tar
    try:
        root, licence = _survey(members(opened), opened)
        for member in members(opened):
            if member.kind == "file" and not _fault(member.name) and _is_hidden(member.name):
                continue
            yield from _read_member(member, root, licence, opened, reader_for)
    except UnreadableError as broken:
        yield Unreadable(str(broken))
    except _Broken as broken:
        yield Unreadable(f"no readable archive ({broken!s:.80})")


def is_archive(name: PurePosixPath) -> bool:
    """Whether a file of that name (without a compression's suffix) is taken for an archive."""
    return name.suffix.lower() in (".tar", ".zip")


def _survey(members: Iterator[_Member], opened: Opened) -> tuple[str, str]:
    """(the root folder that all members share, the licence file's path below it), after a look at names and sizes alone.

    Raises:
        UnreadableError: it holds too much.
    """
    roots, licences, size = set[str](), list[str](), 0
    limits = opened.limits
    try:
        for number, member in enumerate(members, 1):
            size += member.size
            if number > limits.archive_files or size > limits.archive_bytes:
                raise UnreadableError(
                    f"archive too large (more than {limits.archive_files:,} files or {limits.archive_bytes:,} bytes)"
                )
            first, slash, _ = member.name.partition("/")
            roots.add(first if slash else "")
            if _LICENCE.match(PurePosixPath(member.name).name) and member.kind == "file":
                licences.append(member.name)
    except _Broken:
        pass  # torn: what comes before the tear is read, and the tear is told, when the members are read
    root = roots.pop() if len(roots) == 1 else ""
    nearest = min(licences, key=lambda name: (name.count("/"), name), default="")
    return root, nearest.removeprefix(f"{root}/") if root else nearest


def _read_member(member: _Member, root: str, licence: str, opened: Opened, reader_for: ReaderFor) -> Iterator[Found]:
    if (fault := _fault(member.name)) or member.kind == "device":
        yield Unreadable(fault or "unsafe archive member (a device)", member=_printable(member.name))
        return
    path = member.name.removeprefix(f"{root}/") if root else member.name
    if member.kind == "link":
        yield Skipped("link", "a link", "a file of its own", path)
        return
    inner = Opened.named(PurePosixPath(path), b"", type=opened.type, fields=opened.fields, limits=opened.limits)
    reader = reader_for(inner.name, opened.type, inside=True)
    if reader is None:
        suffix = inner.name.suffix or inner.name.name
        if is_archive(inner.name):
            yield Skipped("archive_in_archive", suffix, "no archive in an archive: unpack it first", path)
        else:
            yield Skipped("unsupported_format", suffix, KNOWN_FORMAT, path)
        return
    try:
        data = _bytes(member, opened.max_bytes)
        for found in reader(replace(inner, source=data)):
            if isinstance(found, Document) and licence:
                found = replace(found, fields=found.fields | {"licence_file": licence})
            yield replace(found, member=path)
    except UnreadableError as broken:
        yield Unreadable(str(broken), member=path)


def _bytes(member: _Member, max_bytes: int) -> bytes:
    """A member's bytes, counted as they come: the size that an archive states may be a lie."""
    too_large = UnreadableError(f"too large (more than {max_bytes:,} bytes in one document)")
    if member.size > max_bytes:
        raise too_large
    file = member.open()
    if file is None:
        raise UnreadableError("archive member without bytes")
    with file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise too_large
    return data


def _fault(name: str) -> str:
    """Why a name must not be used, if it must not."""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", name):
        return "unsafe archive member (an absolute path)"
    if ".." in re.split(r"[\\/]", name):
        return "unsafe archive member (a path that leaves the archive)"
    if "\\" in name or not name.isprintable():
        return "unsafe archive member (a name that is no path)"
    return ""


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)[1:-1]


def _is_hidden(name: str) -> bool:
    """As in folders: what starts with a dot (.git), and what tools have left, is not there."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return any(part.startswith(".") or part in _SKIPPED for part in parts)


def _tar(opened: Opened) -> Iterator[_Member]:
    with tarfile.open(fileobj=Stream(opened.pieces()), mode="r|", bufsize=1 << 20) as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # else it remembers every one that it passed
            if not info.isdir():
                kind = "file" if info.isreg() else "link" if info.issym() or info.islnk() else "device"
                size = info.size if kind == "file" else 0
                yield _Member(info.name.removeprefix("./"), kind, size, partial(archive.extractfile, info))


def _zip(opened: Opened) -> Iterator[_Member]:
    source: Any = opened.source if isinstance(opened.source, Path) and not opened.compression else None
    if source is None:
        raise UnreadableError("no readable archive (a zip that is compressed once more)")
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                is_link = info.external_attr >> 28 == 0xA  # a Unix mode of type symbolic link
                kind = "link" if is_link else "file"
                yield _Member(info.filename, kind, info.file_size, partial(archive.open, info))
