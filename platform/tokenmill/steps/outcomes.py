"""What becomes of a record: kept, dropped by a decision, or rejected because it could not be read."""

from dataclasses import dataclass
from typing import Any

from tokenmill.records import Record


@dataclass(frozen=True)
class Keep:
    record: Record


@dataclass(frozen=True)
class Drop:
    """A decision: which rule, the value it saw, and its threshold."""

    reason: str
    record: Record
    value: Any = None
    threshold: Any = None


@dataclass(frozen=True)
class Reject:
    """A record that could not be read or used: what and where."""

    reason: str
    where: str


Outcome = Keep | Drop | Reject
