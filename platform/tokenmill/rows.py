"""The rows of JSONL, JSON and Parquet files, whatever is in them: each with its place, or why it cannot be read."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from tokenmill.streams import Opened, TooLong, UnreadableError

BATCH_BYTES = 16 << 20
"""Of the rows of a Parquet file in memory at once, by their row group's mean."""
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Row:
    """Any JSON value, or a row of a table as a dictionary."""

    value: Any
    place: str
    """Where in its file: ` line 3`, ` item 3`, ` row 3`."""


@dataclass(frozen=True)
class Damaged:
    """What stands in the place of rows that cannot be read."""

    reason: str
    place: str = ""


Rows = Iterator[Row | Damaged]


def rows_of(path: str, stored: Path, what: str) -> Rows:
    """The rows of a source's file by its suffix, before one of a compression; a file of another is damaged.

    Args:
        path: its name in the source.
        stored: where its bytes are.
        what: is in it, for messages.
    """
    opened = Opened.named(PurePosixPath(path), stored)
    suffix = opened.name.suffix.lower()
    if suffix in READERS:
        return READERS[suffix](opened)
    return iter([Damaged(f"no file of {what} (wanted are {', '.join(READERS)}, also .gz and .zst)")])


def jsonl_rows(opened: Opened) -> Rows:
    """One row a line; blank lines are none. A line that is no JSON, or too long, is damaged and the next is read."""
    number = 0
    try:
        for number, line in enumerate(opened.lines(), 1):
            place = f" line {number}"
            if isinstance(line, TooLong):
                yield Damaged(f"too large (a line of {line.size:,} bytes; at most {opened.max_bytes:,})", place)
            elif line.strip():
                try:
                    value = orjson.loads(line)
                except orjson.JSONDecodeError as broken:
                    yield Damaged(f"not JSON ({broken})", place)
                else:
                    yield Row(value, place)
    except UnreadableError as torn:
        yield Damaged(str(torn), f" after line {number}" if number else "")


def json_rows(opened: Opened, otherwise: str = "no list of records") -> Rows:
    """One row an item of a list; what is no list is damaged as a whole, and `otherwise` says so."""
    try:
        items = orjson.loads(opened.whole())
    except orjson.JSONDecodeError as broken:
        yield Damaged(f"not JSON ({broken})")
        return
    if not isinstance(items, list):
        yield Damaged(otherwise)
        return
    for number, item in enumerate(items, 1):
        yield Row(item, f" item {number}")


def parquet_rows(opened: Opened, wanted: Callable[[list[str]], list[str]] = list) -> Rows:
    """One row a row, of the columns `wanted` among a table's. A row group that is damaged is passed over from there on."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    source: Any = (
        io.BytesIO(opened.whole()) if opened.compression or isinstance(opened.source, bytes) else opened.source
    )
    try:
        with pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False) as file:
            columns, first = wanted(file.schema_arrow.names), 1
            for group in range(file.num_row_groups):
                yield from _row_group(file, group, first, columns)
                first += file.metadata.row_group(group).num_rows
    except (ArrowException, OSError, ValueError) as broken:
        yield Damaged(f"no readable Parquet ({broken!s:.80})")


def _row_group(file: Any, group: int, number: int, columns: list[str]) -> Rows:
    from pyarrow import ArrowException

    facts = file.metadata.row_group(group)
    rows = max(1, min(1024, BATCH_BYTES * facts.num_rows // max(1, facts.total_byte_size)))
    try:
        for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
            for row in batch.to_pylist():
                yield Row(row, f" row {number}")
                number += 1
    except (ArrowException, OSError, ValueError, UnicodeDecodeError) as broken:
        yield Damaged(f"damaged row group ({broken!s:.80})", f" row group {group} from row {number}")


READERS: dict[str, Callable[[Opened], Rows]] = {
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".json": json_rows,
    ".parquet": parquet_rows,
}
