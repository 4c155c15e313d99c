"""Compiled passes that look every character up in a table: for those who change texts, and those who ask if they must."""

from typing import Any

import numpy
from numba import types

from tokenmill.compiling import CODES, LOWER, MARKS, Codes, compiled

SPACED, OUTER, BLANK = (1 << bit for bit in range(8, 11))
"""Line feeds with a space or tab before them, at an end of the text, or more than three in a row (see `marks`)."""

_LINE_FEED, _SPACE, _TAB = map(ord, "\n \t")


@compiled(CODES, LOWER, types.boolean)
def squeezed(codes: Codes, table: Any, after_space: bool) -> Any:
    """Every character as the table gives it, without the spaces that follow a space."""
    out = numpy.empty(len(codes), numpy.uint32)
    made = 0
    for code in codes:
        mapped = table[code]
        is_space = mapped == _SPACE
        out[made] = mapped
        made += not (is_space and after_space)
        after_space = is_space
    return out[:made].copy()


@compiled(CODES, MARKS)
def marks(codes: Codes, table: Any) -> int:
    """The marks that `table` puts on any of the characters, and SPACED, OUTER or BLANK where the text has such line feeds."""
    found: Any = 0
    feeds = 0
    before: Any = numpy.uint32(_LINE_FEED)
    for code in codes:
        found |= table[code]
        if code == _LINE_FEED:
            feeds += 1
            if before in (_SPACE, _TAB):
                found |= SPACED
            if feeds > 3:
                found |= BLANK
        else:
            feeds = 0
        before = code
    if len(codes) and (codes[0] == _LINE_FEED or before == _LINE_FEED):
        found |= OUTER
    return found
