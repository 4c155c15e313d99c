"""Curation's steps in a store of one's own, called by their short names."""

import json

from tokenmill.records import read_jsonl
from tokenmill.steps import find, run_step
from tokenmill.store import open_store
from tokenmill.tracking import RunRef


class Steps:
    """Runs curation's steps in one store."""

    def __init__(self, folder) -> None:
        self.store = open_store(folder.as_uri())

    def __call__(self, step: str, config: dict | None = None, **inputs):
        name = f"curation.{step}"
        settings = find(name).config.at(name, {"execution": {"workers": 1}} | (config or {}))
        return run_step(name, settings, inputs, store=self.store, run=RunRef(key="test", name="test"))["output"]

    def sources(self, path, **more):
        spec = {"name": "mine", "uri": str(path), "type": "web", "licence": "CC0-1.0", "origin": "me"} | more
        return self("register_sources", {"sources": [spec]})

    def corpus(self, folder, rows: list[dict], **more):
        (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return self("ingest", sources=self.sources(folder / "corpus.jsonl", **more))

    def records(self, manifest) -> list[dict]:
        return [r for s in manifest.shards for r in read_jsonl(self.store.blob_path(s.blob))]

    def file(self, manifest, name: str) -> bytes:
        return self.store.get_blob(manifest.shard(name).blob)
