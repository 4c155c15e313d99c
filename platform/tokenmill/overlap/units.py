"""A text as units, which are what is compared: lower-cased words and the signs of arithmetic; in Chinese, characters.

Punctuation and white space do not count. A unit is its 64-bit hash: of a billion different ones two are alike with a
chance of one in forty.
"""

import re
from functools import cache
from typing import Any

import numpy
from numpy.typing import NDArray

Units = NDArray[numpy.uint64]
HAN = re.compile(r"[㐀-鿿\uf900-\ufaff]")
SIGNS = "-+*/=<>^%×÷"
TABLE_SIZE = 0x40000
"""Code points from here on are no letter and no digit in Unicode (private use, tags)."""
_CONTEXTUAL = "\u0130", "\u03a3"
"""The two characters whose lower case hangs on more than themselves: İ becomes two, Σ has two forms."""


def is_chinese(text: str) -> bool:
    return len(HAN.findall(text)) > 0.3 * len(text)


def units(text: str, chinese: bool) -> Units:
    """The units of a text, in order: uint64 [units]."""
    from tokenmill.overlap.kernels import hashed_units

    if not text.isascii() and any(map(text.__contains__, _CONTEXTUAL)):
        text = text.lower()
    codes = numpy.frombuffer(text.encode("utf-32-le", "surrogatepass"), numpy.uint32)
    found: Units = hashed_units(codes, _table(), chinese)
    return found


@cache
def _table() -> Any:
    """What a code point counts as, uint32 [TABLE_SIZE]: the lower case of what Python's `\\w` matches; a sign, marked."""
    from tokenmill.overlap.kernels import SIGN

    table = numpy.zeros(TABLE_SIZE, numpy.uint32)
    for code in range(TABLE_SIZE):
        lowered = chr(code).lower()
        if len(lowered) == 1 and (lowered.isalnum() or lowered == "_"):
            table[code] = ord(lowered)
    for sign in SIGNS:
        table[ord(sign)] = numpy.uint32(ord(sign)) | SIGN
    return table
