"""The audit log of a registered model: every move of an alias, as it was begun and as it ended.

A move is two records: one before the alias moves, so that no move is without, and one of what MLflow says came of it.
Records are numbered files in the store, each made by exclusive creation and holding the sha256 of the one before: a line
that was taken out or written anew shows. What no later record vouches for, the newest, is held to MLflow: a tag of the
registered model has a copy of each move's last record. Who can write to both can still take the newest away.
"""

import re
from datetime import UTC, datetime
from typing import Literal

import orjson
from pydantic import Field, ValidationError

from tokenmill.errors import CorruptError
from tokenmill.manifest import Frozen, canonical, sha256
from tokenmill.store.layout import audit_key
from tokenmill.tracking import Registry

AUDIT_TAG = "tokenmill.audit"
_COPY = re.compile(rf"{re.escape(AUDIT_TAG)}\.(?P<move>[0-9]{{6,}})")
Action = Literal["registered", "promoted", "rolled back"]


class Intent(Frozen):
    """A move of an alias, as somebody wants it."""

    who: str = Field(description="as the mover's environment says: nothing proves it")
    model: str
    alias: str
    action: Action
    before: str | None = Field(description="version that it stands at")
    after: str | None = Field(description="version that it moves to; null: the alias goes")
    why: str
    forced: bool = Field(description="without a passed verdict, by --force")
    release: str | None = Field(description="manifest of `after`")
    verdict: str | None = Field(description="manifest of the gate's verdict that lets it pass")
    policy: str | None = Field(description="the limits that the verdict was made by")


class Record(Intent):
    """What was written down of a move."""

    number: int = Field(description="1 is a model's first")
    move: int = Field(description="number of the record that began the move")
    state: Literal["begun", "moved", "not moved"] = Field(description="`begun` until MLflow was asked what came of it")
    time: str = Field(description="UTC")
    previous: str = Field(description="sha256 of the record before; empty for the first")

    @property
    def text(self) -> str:
        """As it is stored and copied."""
        return canonical(self.model_dump()).decode()


class AuditLog:
    """The records of one registered model, by its own identity: an address changes, by a port-forward or a restore."""

    def __init__(self, registry: Registry, model: str):
        self.registry, self.model, self.identity = registry, model, registry.identity(model)
        self.backend = registry.store.backend
        self._read, self._copied = list[Record](), dict[int, str]()

    def moves(self) -> list[Record]:
        """How each move ended, oldest first; `begun` where that is not known yet.

        Raises:
            CorruptError: a record is missing, was written anew, or is not what MLflow has a copy of.
        """
        self._look()
        self._hold_to_copies()
        return _last_of_each(self._read)

    def begin(self, intent: Intent) -> None:
        """Write down a move before it is made, by whoever has settled the one before and keeps others out."""
        self._append(intent, len(self._read) + 1, "begun")

    def settle(self) -> Record | None:
        """Ask MLflow what came of the newest move and write it down, if nobody did; that move as it ended.

        Raises:
            CorruptError: as for `moves`.
        """
        moves = self.moves()
        if not moves:
            return None
        newest = moves[-1]
        if newest.state == "begun":
            stands = self.registry.alias_version(self.model, newest.alias)
            return self._append(newest, newest.move, "moved" if stands == newest.after else "not moved")
        if self._copied.get(newest.move) != newest.text:
            self._copy(newest)
        return newest

    def accept(self) -> int:
        """Give MLflow the copies that it lacks, as after a restore from an older backup; how many.

        Raises:
            CorruptError: a copy says something else than the record, or is of a move that has none.
        """
        self._look()
        self._hold_to_copies(lacking=True)
        late = [record for record in _last_of_each(self._read) if self._copied.get(record.move) != record.text]
        for record in late:
            self._copy(record)
        return len(late)

    def _look(self) -> None:
        """Read the records, and the copies that MLflow has of them; again where somebody moved an alias meanwhile."""
        self._copied, before = self._copies(), None
        while before != self._copied:
            before, self._read = self._copied, self._records()
            self._copied = self._copies()

    def _copies(self) -> dict[int, str]:
        found = ((_COPY.fullmatch(tag), value) for tag, value in self.registry.model_tags(self.model).items())
        return {int(tag["move"]): value for tag, value in found if tag}

    def _records(self) -> list[Record]:
        found, previous = list[Record](), ""
        keys = sorted(entry.key for entry in self.backend.list(audit_key(self.identity, self.model, None)))
        for number, key in enumerate(keys, 1):
            data = self.backend.get(key)
            try:
                record = Record.model_validate(orjson.loads(data))
            except (ValueError, ValidationError):
                raise CorruptError(f"{self.backend.uri}/{key} is no record of an alias: restore it") from None
            if key != audit_key(self.identity, self.model, number) or record.previous != previous:
                raise CorruptError(f"{self.backend.uri}/{key} does not follow the record before it: restore that")
            found.append(record)
            previous = sha256(data)
        return found

    def _append(self, intent: Intent, move: int, state: Literal["begun", "moved", "not moved"]) -> Record:
        facts = {name: getattr(intent, name) for name in Intent.model_fields}
        record = Record(
            **facts,
            number=len(self._read) + 1,
            move=move,
            state=state,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            previous=sha256(self._read[-1].text.encode()) if self._read else "",
        )
        if not self.backend.create(audit_key(self.identity, self.model, record.number), record.text.encode()):
            raise CorruptError(
                f"{self.model}: record {record.number} was written by another hand: look, then try again"
            )
        self._read.append(record)
        self._copy(record)
        return record

    def _copy(self, record: Record) -> None:
        self.registry.tag_model(self.model, f"{AUDIT_TAG}.{record.move:06d}", record.text)

    def _hold_to_copies(self, *, lacking: bool = False) -> None:
        """Compare with MLflow. A mover that was cut off may have left it behind by its own, the newest, move.

        Args:
            lacking: any move may be without a copy, or with one of its beginning.
        """
        records, copies = self._read, self._copied
        newest = records[-1].move if records else 0
        if gone := sorted(copies.keys() - {record.move for record in records}):
            raise CorruptError(
                f"MLflow has a copy of move {gone[0]} of {self.model}'s aliases, and {self.backend.uri} has no record "
                f"of it: restore {audit_key(self.identity, self.model, gone[0])}"
            )
        begun = {record.move: record.text for record in records if record.state == "begun"}
        for record in _last_of_each(records):
            copy = copies.get(record.move)
            behind = (copy is None and (lacking or record.state != "moved")) or copy == begun.get(record.move)
            if copy == record.text or (behind and (lacking or record.move == newest)):
                continue
            key = audit_key(self.identity, self.model, record.number)
            if copy is None:
                raise CorruptError(
                    f"MLflow has no copy of {key}: somebody else wrote it, or MLflow came back from an older backup; "
                    f"where you know that, `tokenmill audit {self.model} --accept`"
                )
            raise CorruptError(f"{self.backend.uri}/{key} is not what MLflow has a copy of: restore it")


def _last_of_each(records: list[Record]) -> list[Record]:
    return list({record.move: record for record in records}.values())
