"""`tokenmill`: the four doors from a terminal."""

from tokenmill.cli.main import main

__all__ = ["main"]
