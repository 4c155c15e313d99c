"""A repository's files: told by their records, and written as sections of one document (report §3.1.2)."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tokenmill.records import Record
from tokenmill.registered import MEMBER

PROSE = ("markdown", "text")
PROSE_SUFFIXES = (".md", ".markdown", ".rst", ".txt", ".adoc")


class Repository(NamedTuple):
    """A source's files, or those of it that carry the same `repository` or came out of one archive."""

    source: str
    name: str = ""

    @classmethod
    def of(cls, record: Record) -> "Repository":
        archive, inside, _ = record["path"].partition(MEMBER)
        return cls(record["source"], record.get("repository") or (archive if inside else ""))

    def __str__(self) -> str:
        return f"{self.source}/{self.name}" if self.name else self.source


def files_by_path(records: Iterable[Record]) -> Mapping[str, list[Record]]:
    """Path → its records, the first by id in front: that is the file, and others stand behind it."""
    by_path: defaultdict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r["id"]):
        by_path[record["path"]].append(record)
    return by_path


def markdown(path: str, lang: str, text: str) -> str:
    """A file as a section: prose as it is, code in a fence longer than any inside it."""
    if lang in PROSE:
        return f"## {path}\n\n{text}\n"
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`{3,}", text)), default=0))
    return f"## {path}\n\n{fence}{lang}\n{text}\n{fence}\n"


def with_prose(order: list[str], prose: set[str]) -> list[str]:
    """Insert prose before the first code file of its folder, or of the nearest folder above, or else first of all."""
    first: dict[str, str] = {}
    for path in order:
        first.setdefault(posixpath.dirname(path), path)
    before: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(prose):
        folder = posixpath.dirname(path)
        while folder and folder not in first:
            folder = posixpath.dirname(folder)
        before[first.get(folder, order[0] if order else "")].append(path)
    placed = before.pop("", [])
    for path in order:
        placed.extend([*before[path], path])
    return placed
