"""Records that no model is trained on or judged by: counted, with their reason, and never more than a person allows."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from tokenmill.errors import InputError
from tokenmill.logs import Log

_SHOWN = 5
"""Ids a reason that a log line and a manifest name."""


class SetAside:
    """Reason → ids of the records."""

    def __init__(self) -> None:
        self.reasons: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, record: Mapping[str, Any], reason: str) -> None:
        self.reasons[reason].append(str(record.get("id", "without an id")))

    def __len__(self) -> int:
        return sum(map(len, self.reasons.values()))

    def facts(self) -> dict[str, Any]:
        """For a manifest or a report; empty where nothing was set aside."""
        told = {reason: {"records": len(ids), "first": ids[:_SHOWN]} for reason, ids in sorted(self.reasons.items())}
        return {"set_aside": told} if told else {}

    def require_few(self, total: int, share: float, option: str, log: Log | None = None) -> None:
        """Tell of what was set aside, to `log` where it is this process that tells.

        Raises:
            InputError: it is more than `share` of `total` records.
        """
        if not self:
            return
        told = "; ".join(f"{len(ids)} {why} ({', '.join(ids[:_SHOWN])})" for why, ids in sorted(self.reasons.items()))
        said = f"{len(self)} of {total} records cannot be used: {told}"
        if len(self) > share * total:
            raise InputError(f"{said}. That is more than {share:.1%} ({option}): mend them, or allow more")
        if log:
            log.warning(said)
