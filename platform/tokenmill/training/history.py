"""The training log while it grows: stored in pieces, each of which names the one before it.

A checkpoint holds the name of the last piece alone, however long the training is. A piece's name is that of its content, so a
training that goes back and on writes nothing twice, and what it did not go on from is never read.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from tokenmill.manifest import sha256
from tokenmill.store import ArtifactStore

Row = dict[str, Any]


class History:
    """What was measured, step by step. Rank 0 alone has one to keep."""

    def __init__(self, store: ArtifactStore, key: str, last: str = "") -> None:
        self.store, self.key, self.last = store, key, last
        self._new: list[Row] = []

    def append(self, row: Row) -> None:
        self._new.append(row)

    def seal(self) -> tuple[str, bytes]:
        """The key and bytes of a new last piece: store it before any checkpoint that names it."""
        piece = orjson.dumps({"before": self.last, "rows": self._new})
        self.last, self._new = sha256(piece), []
        return self._place(self.last), piece

    def rows(self) -> Iterator[Row]:
        """All of them, in order; every piece must be stored by now."""
        names, last = [], self.last
        while last:
            names.append(last)
            last = self._piece(last)["before"]
        for name in reversed(names):
            yield from self._piece(name)["rows"]
        yield from self._new

    def _piece(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.store.backend.get(self._place(name)))
        return found

    def _place(self, name: str) -> str:
        return f"work/{self.key}/log/{name}.json"
