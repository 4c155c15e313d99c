"""One compiled pass over a text: where numbers and addresses may stand. An expression that walks over every character of
every text to find the few digits in it takes twenty times as long."""

from typing import Any

import numba
import numpy

from tokenmill.compiling import CODES, TABLE, Codes, Table, compiled

DIGITS, PLUS, DOTS, COLONS = (1 << bit for bit in range(4))
"""What may stand at a place: ten digits, eight digits and a plus sign, four digits and three dots, an IPv6 address."""

_DIGIT, _OPENS, _WITHIN, _HEX = (1 << bit for bit in range(4))
_KINDS = numpy.zeros(129, numpy.uint8)
"""Kinds of ASCII characters, and of all others in one place at the end."""
_KINDS[[*map(ord, "0123456789")]] |= _DIGIT
_KINDS[[*map(ord, "0123456789(+:")]] |= _OPENS
_KINDS[[*map(ord, "0123456789 ().-+")]] |= _WITHIN
_KINDS[[*map(ord, "0123456789abcdefABCDEF")]] |= _HEX
_DOT, _PLUS, _TWO, _THREE = map(ord, ".+23")


@numba.njit
def _kind(code: Any) -> Any:
    return _KINDS[min(code, numpy.uint32(128))]


@numba.njit
def _begins_v6(codes: Any, colon: int) -> bool:
    if colon < 4 or codes[colon - 4] not in (_TWO, _THREE):
        return False
    return (_kind(codes[colon - 3]) & _kind(codes[colon - 2]) & _kind(codes[colon - 1]) & _HEX) != 0


def places(codes: Codes) -> list[tuple[int, int, int]]:
    """(start, end, what may stand there) by their ends: runs of digits and what people write between them."""
    found = numpy.empty((64, 3), numpy.int64)
    if (made := fill(codes, found)) > len(found):
        found = numpy.empty((made, 3), numpy.int64)
        fill(codes, found)
    return [(start, end, flags) for start, end, flags in found[:made].tolist()]


@compiled(CODES, TABLE)
def fill(codes: Codes, found: Table) -> int:
    """Write the first places into `found`, as many as it has rows; returns how many there are."""
    made = i = 0
    n = len(codes)
    while i < n:
        if not _kind(codes[i]) & _OPENS:
            i += 1
            continue
        start, flags, digits, dots, pluses = i, 0, 0, 0, 0
        while i < n and _kind(codes[i]) & _WITHIN:
            digits += (_kind(codes[i]) & _DIGIT) != 0
            dots += codes[i] == _DOT
            pluses += codes[i] == _PLUS
            i += 1
        if i == start:  # a colon
            if _begins_v6(codes, i):
                start, flags = i - 4, COLONS
            i += 1
        elif digits >= 4:
            flags = DIGITS * (digits >= 10) | PLUS * (digits >= 8 and pluses > 0) | DOTS * (dots >= 3)
        if flags:
            if made < len(found):
                found[made, 0], found[made, 1], found[made, 2] = start, i, flags
            made += 1
    return made
