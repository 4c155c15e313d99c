"""A row of JSONL, JSON or Parquet to a document: field mappings, and the schemas of WanJuan 1.0 and WanJuan-CC.

Names are ours on the left: `text`, `title`, `url`, … A source's mapping (`fields: {text: body, url: meta.link}`) says what
they are called in its files; without one they bear their own names, and the text may be called `content`, as in WanJuan.
"""

from collections.abc import Mapping
from typing import Any

from tokenmill.curation.found import Document, Found, Unreadable

KNOWN_FIELDS = ("title", "url", "date", "dump", "question", "answer", "task")
"""Kept with the record under their own names."""
_WANJUAN_SCORES = {
    "toxic_score": "toxic", "porn_score": "porn", "fluency_score": "fluency", "not_ad_score": "not_ad",
}  # fmt: skip
"""WanJuan-CC's columns (spec 1.2.1) → `scores`. Toxic and porn: higher is worse; fluency and not_ad: higher is better."""
_WANJUAN_CC = ("id", "token_num", "cbytes_num", "line_num", "char_num")
_SCORE = "scores."


def from_row(row: Any, place: str, mapping: Mapping[str, str] | None = None) -> Found:
    """(text, fields) of one row; `fields` may hold `scores` and `extra` besides the known ones."""
    if isinstance(row, str):
        return Document(row)
    if not isinstance(row, dict):
        return Unreadable("neither a text nor a record", place)
    mapping = mapping or {}
    text = _text(row, mapping)
    if not isinstance(text, str):
        wanted = f"`{mapping['text']}`" if "text" in mapping else "`text` or `content`"
        return Unreadable(f"no text: a record needs the field {wanted}", place)
    fields = row | {ours: _at(row, theirs) for ours, theirs in mapping.items() if _is_plain(ours)}
    scores, extra = _mapped(row, mapping)
    if "content" in row and "text" not in row:
        scores |= {ours: row[theirs] for theirs, ours in _WANJUAN_SCORES.items() if row.get(theirs) is not None}
        extra |= _wanjuan_extra(row)
        fields["lang"] = fields.get("lang") or row.get("language")
    for name, value in scores.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            return Unreadable(f"bad score ({name} is {value!r:.40}, not a number from 0 to 1)", place)
    return Document(text, fields | {"scores": scores, "extra": extra})


def _text(row: Mapping[str, Any], mapping: Mapping[str, str]) -> Any:
    if "text" in mapping:
        return _at(row, mapping["text"])
    return row.get("text", row.get("content"))


def _at(row: Mapping[str, Any], name: str) -> Any:
    """A field by its name, or by the path `outer.inner` to it."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _is_plain(ours: str) -> bool:
    return ours in KNOWN_FIELDS or ours == "lang"


def _mapped(row: Mapping[str, Any], mapping: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a mapping sends to `scores` (`scores.toxic: tox`) and, under names of the user's own, to `extra`."""
    scores, extra = {}, {}
    for ours, theirs in mapping.items():
        value = _at(row, theirs)
        if value is None or ours == "text" or _is_plain(ours):
            continue
        if ours.startswith(_SCORE):
            scores[ours.removeprefix(_SCORE)] = value
        elif isinstance(value, str | int | float):
            extra[ours] = value
    return scores, extra


def _wanjuan_extra(row: Mapping[str, Any]) -> dict[str, Any]:
    """WanJuan's own id and statistics; its 1.0 sources add fields of their own, of which the plain values are kept."""
    taken = {"content", "language", "lang", "scores", *KNOWN_FIELDS, *_WANJUAN_SCORES}
    return {
        name: value
        for name, value in row.items()
        if isinstance(value, str | int | float) and name not in taken and (name in _WANJUAN_CC or "id" in row)
    }


def columns(names: list[str], mapping: Mapping[str, str] | None) -> list[str]:
    """Of a table's columns those that a row is made of; the others need not be read."""
    wanted = {theirs.split(".")[0] for theirs in (mapping or {}).values()} | set((mapping or {}).values())
    if "text" not in names and "content" in names and "text" not in (mapping or {}):
        return names  # WanJuan keeps all plain fields
    return [n for n in names if n in wanted or n in ("text", "content", "lang", *KNOWN_FIELDS)]
