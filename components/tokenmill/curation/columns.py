"""Arrays that lie in files and are used there, through the operating system's page cache: no worker holds a copy."""

from pathlib import Path

import numpy as np


def mapped(path: Path, dtype: np.typing.DTypeLike) -> np.ndarray:
    """A file of nothing but `dtype`, where it lies; a plain array, since a memmap is slow to be read a value at a time."""
    return np.asarray(np.memmap(path, dtype, "r")) if path.stat().st_size else np.empty(0, dtype)
