"""Bytes to text, without a word from the outside."""

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


_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u180e"


def invisible_share(text: str) -> float:
    """Share of zero-width characters: what a flood of them is told by, from 0 to 1."""
    return sum(map(text.count, _INVISIBLE)) / max(1, len(text))
