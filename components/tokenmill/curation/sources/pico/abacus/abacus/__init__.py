"""An abacus: numbers on rods."""

from .ops import add, double
from .rods import Rods

__all__ = ["Rods", "add", "double"]
