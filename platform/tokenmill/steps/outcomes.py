"""What becomes of a record: kept, dropped by a decision, or rejected because it could not be read."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

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
    folder: ClassVar = "dropped"

    def told(self) -> Record:
        """The record, and why it was dropped, as it is set aside."""
        return self.record | {"dropped": {"reason": self.reason, "value": self.value, "threshold": self.threshold}}


@dataclass(frozen=True)
class Reject:
    """A record that could not be read or used: what and where."""

    reason: str
    where: str
    folder: ClassVar = "rejected"

    def told(self) -> Record:
        """What is set aside in place of the record."""
        return {"reason": self.reason, "where": self.where}


Outcome = Keep | Drop | Reject


def short(reason: str) -> str:
    """A reject's reason without its particulars, to count by."""
    return re.split(r"[(:]", reason, maxsplit=1)[0].strip()
