"""What a `sources` manifest holds: files as they were registered, and what is told about a source.

A file's shard is `<type>/<source>/<path>`. What changes how a source's files are read stands beside them as a shard of its
own, so that the action cache sees it: which documents were taken down, its crawl dump, the names of its fields.
"""

from typing import Any

import orjson

from tokenmill.manifest import Manifest, Shard
from tokenmill.store import ArtifactStore
from tokenmill.store.layout import TOMBSTONES

DUMPS = "dumps"
FIELDS = "fields"
TOLD = {TOMBSTONES: "documents.json", DUMPS: "dump.json", FIELDS: "fields.json"}
MEMBER = "!/"
"""Between an archive's path and a path inside it."""
CHAT = "chat"
"""Type of a source of conversations, which fine-tuning reads and curation does not."""
PREFERENCES = "preferences"
"""Type of a source of pairs of answers, which RLHF reads and curation does not."""


def is_file(shard: Shard) -> bool:
    """Whether a shard of a sources manifest is a source's file, and not something told about a source."""
    return not shard.name.startswith(tuple(f"{what}/" for what in TOLD))


def is_chat(shard: Shard) -> bool:
    """Whether a shard is a file of conversations."""
    return shard.name.startswith(f"{CHAT}/")


def is_preferences(shard: Shard) -> bool:
    """Whether a shard is a file of preferences."""
    return shard.name.startswith(f"{PREFERENCES}/")


def is_document(shard: Shard) -> bool:
    """Whether a shard is a file of documents."""
    return is_file(shard) and not is_chat(shard) and not is_preferences(shard)


def told(store: ArtifactStore, sources: Manifest, what: str) -> dict[str, Any]:
    """Source → what a sources manifest tells of it: the documents that were taken down, its crawl dump, its fields."""
    return {
        s.name.split("/")[1]: orjson.loads(store.bytes_of(s)) for s in sources.shards if s.name.startswith(f"{what}/")
    }
