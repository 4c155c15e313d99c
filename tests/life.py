"""A whole life, run from the command line in a folder of its own, and what a test wants to know about it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from tokenmill.manifest import Manifest
from tokenmill.records import read_jsonl
from tokenmill.store import ArtifactStore, open_store
from tokenmill.tracking import read_events


@dataclass(frozen=True)
class Life:
    """A folder with a store, and the last run in it."""

    folder: Path
    preset: str
    environment: Mapping[str, str]

    @cached_property
    def store(self) -> ArtifactStore:
        return open_store(f"file://{self.folder}/store")

    def tokenmill(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"TOKENMILL_STORE": self.store.uri, "MLFLOW_TRACKING_URI": ""} | self.environment
        command = [sys.executable, "-m", "tokenmill.cli", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=timeout, check=False
        )

    def run(self, pipeline: str = "lifecycle", *options: str, timeout: float = 600) -> "Lived":
        done = self.tokenmill("run", pipeline, "--preset", self.preset, "--json", *options, timeout=timeout)
        assert done.returncode == 0, done.stderr[-2000:]
        return Lived(self, orjson.loads(done.stdout), done)


@dataclass(frozen=True)
class Lived:
    """One run of it: its summary, and its artifacts by task and output role."""

    life: Life
    summary: dict[str, Any]
    said: subprocess.CompletedProcess[str]

    @cached_property
    def finished(self) -> dict[str, dict[str, Any]]:
        """Task → what its `step_finished` event says."""
        events = read_events(self.life.store, self.summary["run"])
        return {event.task: event.data for event in events if event.kind == "step_finished"}

    def manifest(self, task: str, role: str = "output") -> Manifest:
        return self.life.store.get_manifest(self.finished[task]["outputs"][role]["digest"])

    def document(self, task: str, name: str, role: str = "output") -> Any:
        """A JSON file of an artifact."""
        return orjson.loads(self.life.store.get_blob(self.manifest(task, role).shard(name).blob))

    def log(self, task: str) -> list[dict[str, Any]]:
        """A training step's log: a row an optimizer step, and one a measurement of held-out loss."""
        shards = self.manifest(task, "training_log").shards
        return [row for shard in shards for row in read_jsonl(self.life.store.blob_path(shard.blob))]

    def heldout(self, task: str, domain: str = "loss") -> list[float]:
        """Held-out loss in the course of a training, in nats a token."""
        return [row[f"heldout/{domain}"] for row in self.log(task) if f"heldout/{domain}" in row]

    @cached_property
    def pure(self) -> set[str]:
        """Tasks of steps, which a rerun finds done; the others are effects."""
        return {task for task, data in self.finished.items() if data["cache"] != "effect"}
