"""What a reader finds in a file: documents, what it passes over by a decision, and what cannot be read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tokenmill.streams import Opened


@dataclass(frozen=True)
class Document:
    text: str
    fields: dict[str, Any] = field(default_factory=dict)
    member: str = ""
    """Its path inside an archive."""


@dataclass(frozen=True)
class Skipped:
    """Readable, but no document: a picture, a redirect, a link."""

    reason: str
    value: str
    """What it is,"""
    threshold: str
    """and what it had to be."""
    member: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unreadable:
    reason: str
    place: str = ""
    member: str = ""


Found = Document | Skipped | Unreadable
Reader = Callable[[Opened], Iterator[Found]]
