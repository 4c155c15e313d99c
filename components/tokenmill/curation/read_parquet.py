"""Parquet, batch by batch, by pyarrow: of the columns those that make a record; a row that does not is named."""

import io
from collections.abc import Iterator
from typing import Any

from tokenmill.curation.fields import columns, from_row
from tokenmill.curation.found import Document, Found, Unreadable
from tokenmill.curation.streams import Opened

BATCH_BYTES = 16 << 20
"""Of the rows in memory at once, by their row group's mean."""
_BUFFER = 1 << 20


def read_parquet(opened: Opened) -> Iterator[Found]:
    """One document a row. A row group that is damaged is rejected from the row on at which it is; the next is read."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    source: Any = (
        io.BytesIO(opened.whole()) if opened.compression or isinstance(opened.source, bytes) else opened.source
    )
    try:
        with pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False) as file:
            wanted, first = columns(file.schema_arrow.names, opened.fields), 1
            for group in range(file.num_row_groups):
                yield from _rows(file, group, first, wanted, opened)
                first += file.metadata.row_group(group).num_rows
    except (ArrowException, OSError, ValueError) as broken:
        yield Unreadable(f"no readable Parquet ({broken!s:.80})")


def _rows(file: Any, group: int, number: int, wanted: list[str], opened: Opened) -> Iterator[Found]:
    from pyarrow import ArrowException

    facts = file.metadata.row_group(group)
    rows = max(1, min(1024, BATCH_BYTES * facts.num_rows // max(1, facts.total_byte_size)))
    try:
        for batch in file.iter_batches(rows, row_groups=[group], columns=wanted, use_threads=False):
            for row in batch.to_pylist():
                yield _checked(from_row(row, f" row {number}", opened.fields), f" row {number}", opened.max_bytes)
                number += 1
    except (ArrowException, OSError, ValueError, UnicodeDecodeError) as broken:
        yield Unreadable(f"damaged row group ({broken!s:.80})", f" row group {group} from row {number}")


def _checked(found: Found, place: str, max_bytes: int) -> Found:
    if isinstance(found, Document) and len(found.text) > max_bytes:
        return Unreadable(f"too large (a text of {len(found.text):,} characters; at most {max_bytes:,} bytes)", place)
    return found
