"""Lineage: from any artifact up to its raw sources, down to everything made of it, and what differs between two.

Manifests are a Merkle tree, so nothing is recorded for lineage's sake: up is `parents`, down is a listing of children.
A document keeps its id through every shard, which answers "which models saw this document?".
"""

from tokenmill.lineage.differences import Diff, diff
from tokenmill.lineage.documents import DocumentTrace, find_document
from tokenmill.lineage.graph import LineageGraph, Source, downstream, parents_first, resolve, upstream

__all__ = [
    "Diff",
    "DocumentTrace",
    "LineageGraph",
    "Source",
    "diff",
    "downstream",
    "find_document",
    "parents_first",
    "resolve",
    "upstream",
]
