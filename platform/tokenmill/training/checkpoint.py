"""Checkpoints that a kill cannot tear: local snapshot, background upload, marker last.

Each rank writes its DeepSpeed files locally, then uploads them under `work/<key>/checkpoints/<step>/`; a rank's marker,
written last, lists its files with their sha256. A checkpoint is complete when every rank's marker is there; only files
named in a marker and with that digest are ever loaded, because DeepSpeed's own format is pickle.
"""

import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch.distributed as dist

from tokenmill.errors import CorruptError
from tokenmill.manifest import sha256
from tokenmill.store import ArtifactStore

_MARKER = re.compile(r"/checkpoints/(\d+)/rank-(\d+)-of-(\d+)\.json$")


@dataclass(frozen=True)
class Complete:
    """A complete checkpoint in the store."""

    step: int
    world: int


class Checkpoints:
    """The checkpoints of one action key."""

    def __init__(self, store: ArtifactStore, key: str, local: Path) -> None:
        self.store, self.prefix, self.local = store, f"work/{key}/checkpoints", local
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._upload: threading.Thread | None = None
        self._failure: BaseException | None = None

    def newest(self) -> Complete | None:
        """The newest checkpoint that every rank of its world finished."""
        seen: dict[tuple[int, int], set[int]] = {}
        for entry in self.store.backend.list(f"{self.prefix}/"):
            if found := _MARKER.search(entry.key):
                step, rank, world = map(int, found.groups())
                seen.setdefault((step, world), set()).add(rank)
        complete = [key for key, ranks in seen.items() if len(ranks) == key[1]]
        return Complete(*max(complete)) if complete else None

    def save(self, engine: Any, step: int, state: dict[str, Any]) -> None:
        """Snapshot to local disk (the step waits for this), then upload in the background (it does not)."""
        self.wait()
        folder = self.local / "out"
        if self.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        dist.barrier()
        engine.save_checkpoint(str(folder), tag=str(step), client_state=state, save_latest=False)
        mine = [path for index, path in enumerate(sorted((folder / str(step)).rglob("*"))) if path.is_file()]
        mine = [path for index, path in enumerate(mine) if index % self.world == self.rank]
        self._upload = threading.Thread(target=self._store, args=(folder / str(step), mine, step), daemon=True)
        self._upload.start()

    def _store(self, folder: Path, files: list[Path], step: int) -> None:
        try:
            digests = {}
            for path in files:
                name = path.relative_to(folder).as_posix()
                data = path.read_bytes()
                self.store.backend.put(f"{self.prefix}/{step}/{name}", data)
                digests[name] = sha256(data)
            marker = f"{self.prefix}/{step}/rank-{self.rank}-of-{self.world}.json"
            self.store.backend.put(marker, orjson.dumps(digests))
        except BaseException as failure:  # handed to the training thread by wait()
            self._failure = failure

    def wait(self) -> None:
        """Until the last upload is done; raises what it raised."""
        if self._upload:
            self._upload.join()
            self._upload = None
        if self._failure:
            raise self._failure

    def load(self, engine: Any, found: Complete) -> dict[str, Any]:
        """Restore engine and client state; every rank loads the same verified files."""
        folder = self.local / "in"
        if self.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            for rank in range(found.world):
                marker = f"{self.prefix}/{found.step}/rank-{rank}-of-{found.world}.json"
                for name, digest in orjson.loads(self.store.backend.get(marker)).items():
                    data = self.store.backend.get(f"{self.prefix}/{found.step}/{name}")
                    if sha256(data) != digest:
                        raise CorruptError(
                            f"checkpoint {found.step}: {name} does not match its digest; delete {self.prefix}"
                        )
                    target = folder / str(found.step) / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(data)
        dist.barrier()
        _, state = engine.load_checkpoint(str(folder), tag=str(found.step))
        return dict(state)

    def prune(self, keep: int) -> None:
        """Delete checkpoints older than `keep`, markers first, so that none is ever half there."""
        if self.rank != 0:
            return
        entries = [e.key for e in self.store.backend.list(f"{self.prefix}/")]
        old = [k for k in entries if int(k.removeprefix(self.prefix + "/").split("/")[0]) < keep]
        for key in sorted(old, key=lambda k: not _MARKER.search(k)):
            self.store.backend.delete(key)
