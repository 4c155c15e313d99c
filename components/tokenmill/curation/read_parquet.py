"""Parquet, batch by batch: of the columns those that make a record; a row that does not is named."""

from collections.abc import Iterator

from tokenmill.curation.fields import columns, from_row
from tokenmill.curation.found import Document, Found, Unreadable
from tokenmill.rows import Damaged, parquet_rows
from tokenmill.streams import Opened


def read_parquet(opened: Opened) -> Iterator[Found]:
    """One document a row. A row group that is damaged is rejected from the row on at which it is; the next is read."""
    for row in parquet_rows(opened, lambda names: columns(names, opened.fields)):
        if isinstance(row, Damaged):
            yield Unreadable(row.reason, row.place)
        else:
            yield _checked(from_row(row.value, row.place, opened.fields), row.place, opened.max_bytes)


def _checked(found: Found, place: str, max_bytes: int) -> Found:
    if isinstance(found, Document) and len(found.text) > max_bytes:
        return Unreadable(f"too large (a text of {len(found.text):,} characters; at most {max_bytes:,} bytes)", place)
    return found
