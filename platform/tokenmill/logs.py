"""Structured logs: one JSON object a line on stderr, so that a cluster's collector can read what a person also can."""

import os
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson


@dataclass(frozen=True)
class Log:
    """A logger bound to fields (run, step, rank) that every line carries."""

    fields: dict[str, Any] = field(default_factory=dict)

    def bind(self, **fields: Any) -> "Log":
        return Log(self.fields | fields)

    def info(self, message: str, **fields: Any) -> None:
        self._write("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        self._write("warning", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        self._write("error", message, fields)

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        if level == "info" and os.environ.get("TOKENMILL_LOG") == "warning":
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "message": message}
        sys.stderr.write(orjson.dumps(line | self.fields | fields, default=str).decode() + "\n")
        sys.stderr.flush()
