"""How a pass over code points is compiled: ahead, for one signature, and kept.

Each is compiled when its module is first imported on a machine (seconds), and read from numba's cache afterwards (beside
the module, else in the user's cache folder, else in `NUMBA_CACHE_DIR`). So nothing imports such a module before it is
needed, and a step with many workers has all of them compiled before it starts them (`document.prepare`).

numba compiles a module anew when its own file changes, not when one does that it imports from: what a compiled function
calls or looks up stands in the same file.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy
from numba import types
from numpy.typing import NDArray

Codes = NDArray[numpy.uint32]
Kinds = NDArray[numpy.uint16]
Hashes = NDArray[numpy.uint64]
Numbers = NDArray[numpy.int64]
Table = NDArray[numpy.int64]
F = TypeVar("F", bound=Callable[..., Any])

CODES = types.Array(types.uint32, 1, "C", readonly=True)
KINDS = types.Array(types.uint16, 1, "C")
MARKS = types.Array(types.uint8, 1, "C")
LOWER = types.Array(types.uint32, 1, "C")
HASHES = types.Array(types.uint64, 1, "C")
NUMBERS = types.Array(types.int64, 1, "C")
TABLE = types.Array(types.int64, 2, "C")


def compiled(*signature: types.Type) -> Callable[[F], F]:
    """Compile ahead for one signature, from the cache where there is one and without it where none can be written."""

    def compile_(function: Any) -> Any:
        try:
            return numba.njit(signature, cache=True)(function)
        except RuntimeError as failure:  # no folder to keep a cache in: a read-only image without a home
            if "cannot cache" not in str(failure):
                raise
            return numba.njit(signature)(function)

    return compile_
