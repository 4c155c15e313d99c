"""Checkpoints that a kill cannot tear: local snapshot, background upload, marker last.

Each rank writes its DeepSpeed files locally, then uploads them; a rank's marker, written last, lists its files with their
sha256. A checkpoint is complete when every rank's marker is there; only files named in a marker and with that digest are
ever loaded, because DeepSpeed's own format is pickle. One that fails this gives way to the one before it. What another
layout wrote is regrouped first.
"""

import shutil
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any

import orjson
import torch.distributed as dist

from tokenmill.errors import CorruptError
from tokenmill.logs import Log
from tokenmill.manifest import sha256
from tokenmill.store import ArtifactStore
from tokenmill.training.resume import Complete, Layout, usable_checkpoints

AS_SAVED = "as-saved"


class Checkpoints:
    """The checkpoints of one action key."""

    def __init__(self, store: ArtifactStore, key: str, local: Path, zero_stage: int, log: Log) -> None:
        self.store, self.key, self.local, self.log = store, key, local, log
        self.rank = dist.get_rank()
        self.layout = Layout(dist.get_world_size(), zero_stage)
        self._upload: threading.Thread | None = None
        self._failure: BaseException | None = None

    def newest(self) -> Complete | None:
        """Fetch what to go on from: rank 0 looks, so that all ranks go on from the same.

        Raises:
            CorruptError: there are checkpoints, and none is whole.
        """
        found = [self._fetch_newest() if self.rank == 0 else None]
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def _fetch_newest(self) -> Complete | None:
        usable = usable_checkpoints(self.store, self.key, self.layout)
        for candidate in usable:
            shutil.rmtree(self.local / "in", ignore_errors=True)
            try:
                self._fetch(candidate, self.local / "in" / AS_SAVED)
            except CorruptError as damage:
                self.log.warning(f"{damage}; trying the checkpoint before it")
                continue
            return candidate
        if usable:
            raise CorruptError(
                f"none of {len(usable)} checkpoints is whole: delete work/{self.key}/checkpoints in {self.store.uri} "
                "to start from the beginning"
            )
        return None

    def save(self, engine: Any, step: int, state: dict[str, Any]) -> None:
        """Snapshot to local disk (the step waits for this), then upload in the background (it does not)."""
        self.wait()
        folder = self.local / "out"  # of all ranks
        if self.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        dist.barrier()
        engine.save_checkpoint(str(folder), tag=str(step), client_state=state, save_latest=False)
        mine = [path for index, path in enumerate(sorted((folder / str(step)).rglob("*"))) if path.is_file()]
        mine = [path for index, path in enumerate(mine) if index % self.layout.ranks == self.rank]
        target = Complete(step, self.layout).folder(self.key)
        self._upload = threading.Thread(target=self._store, args=(folder / str(step), mine, target), daemon=True)
        self._upload.start()

    def _store(self, folder: Path, files: list[Path], target: str) -> None:
        try:
            digests = {}
            for path in files:
                name = path.relative_to(folder).as_posix()
                data = path.read_bytes()
                self.store.backend.put(f"{target}/{name}", data)
                digests[name] = sha256(data)
            self.store.backend.put(f"{target}/rank-{self.rank}.json", orjson.dumps(digests))
        except BaseException as failure:  # handed to the training thread by wait()
            self._failure = failure

    def wait(self) -> None:
        """Until the last upload of every rank is done: they all read from the folder of one. Raises what ours raised."""
        if self._upload:
            self._upload.join()
            self._upload = None
        if self._failure:
            raise self._failure
        dist.barrier()

    def load(self, engine: Any, found: Complete) -> dict[str, Any]:
        """Restore engine and client state; every rank loads the same files, which `newest` has fetched."""
        folder, tag = self.local / "in", AS_SAVED
        if found.layout != self.layout:
            tag = "regrouped"
            if self.rank == 0:
                regroup(folder / AS_SAVED, folder / tag)
            dist.barrier()
        _, state = engine.load_checkpoint(str(folder), tag=tag)
        return dict(state)

    def _fetch(self, found: Complete, target: Path) -> None:
        source = found.folder(self.key)
        for rank in range(found.layout.ranks):
            for name, digest in orjson.loads(self.store.backend.get(f"{source}/rank-{rank}.json")).items():
                if not self.store.backend.exists(f"{source}/{name}"):
                    raise CorruptError(f"checkpoint of step {found.step}: {name} is missing")
                data = self.store.backend.get(f"{source}/{name}")
                if sha256(data) != digest:
                    raise CorruptError(f"checkpoint of step {found.step}: {name} does not match its digest")
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).write_bytes(data)

    def prune(self, keep: int) -> None:
        """Delete checkpoints older than `keep`, markers first, so that none is ever half there."""
        if self.rank != 0:
            return
        prefix = f"work/{self.key}/checkpoints/"
        entries = [entry.key for entry in self.store.backend.list(prefix)]
        old = [key for key in entries if int(key.removeprefix(prefix).split("/")[0]) < keep]
        for key in sorted(old, key=lambda k: not k.endswith(".json")):
            self.store.backend.delete(key)


def regroup(saved: Path, target: Path) -> None:
    """DeepSpeed's universal checkpoint of a saved one: whole tensors, that any number of ranks takes its shards from."""
    from deepspeed.checkpoint import ds_to_universal

    ds_to_universal.main(
        Namespace(
            input_folder=str(saved),
            output_folder=str(target),
            num_extract_workers=1,  # in this process: forking a rank is asking for trouble
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,  # what Megatron would say of its tensor parallelism: there is none
        )
    )
