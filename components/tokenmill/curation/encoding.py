"""Bytes to text, without a word from the outside."""

import re

_ENCODINGS = ["utf_16", "utf_32", "gb18030", "big5", "cp1252", "latin_1"]


_WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252", "latin-1": "cp1252", "ascii": "cp1252"}
"""What a page that states the one is written in (WHATWG Encoding Standard)."""


def decode(data: bytes, stated: str = "") -> str | None:
    """Text of unknown encoding: UTF-8 if it is, else as stated, else the likeliest for English and Chinese, else None.

    What has a NUL in it is no text.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        found = _as_stated(data, stated) or _guessed(data)
        if found is None:
            return None
        text = found.removeprefix("\ufeff")
    return None if "\0" in text else text


def _as_stated(data: bytes, stated: str) -> str | None:
    try:
        return data.decode(_WIDER.get(stated.lower(), stated)) if stated else None
    except (UnicodeDecodeError, LookupError):
        return None


def _guessed(data: bytes) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(data, cp_isolation=_ENCODINGS, threshold=0.15).best()
    return None if best is None else str(best)


_INVISIBLE = re.compile(
    r"[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    r"\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
"""What a reader does not see: Unicode's Default_Ignorable_Code_Point."""


def invisible_share(text: str) -> float:
    """Share of characters without a width: what a flood of them is told by, from 0 to 1."""
    return sum(map(len, _INVISIBLE.findall(text))) / max(1, len(text))
