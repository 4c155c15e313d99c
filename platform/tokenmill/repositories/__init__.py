"""Repositories of code: which files belong together, what imports what, and how a file is written into a document."""
