"""What one does on an abacus."""

from .addition import add
from .doubling import double

__all__ = ["add", "double"]
