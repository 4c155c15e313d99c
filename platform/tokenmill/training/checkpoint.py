"""Checkpoints that a kill cannot tear: local snapshot, background upload, marker last.

Each rank writes its DeepSpeed files locally, then uploads them; a rank's marker, written last, lists its files with their
sha256. A checkpoint is complete when every rank's marker is there; only files named in a marker and with that digest are
ever loaded, because DeepSpeed's own format is pickle. What another layout wrote is regrouped first.
"""

import shutil
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any

import orjson
import torch.distributed as dist

from tokenmill.errors import CorruptError
from tokenmill.manifest import sha256
from tokenmill.store import ArtifactStore
from tokenmill.training.resume import Complete, Layout, newest_checkpoint


class Checkpoints:
    """The checkpoints of one action key."""

    def __init__(self, store: ArtifactStore, key: str, local: Path, zero_stage: int) -> None:
        self.store, self.key, self.local = store, key, local
        self.rank = dist.get_rank()
        self.layout = Layout(dist.get_world_size(), zero_stage)
        self._upload: threading.Thread | None = None
        self._failure: BaseException | None = None

    def newest(self) -> Complete | None:
        """What to go on from: rank 0 looks, so that all ranks go on from the same."""
        found = [newest_checkpoint(self.store, self.key, self.layout) if self.rank == 0 else None]
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def save(self, engine: Any, step: int, state: dict[str, Any]) -> None:
        """Snapshot to local disk (the step waits for this), then upload in the background (it does not)."""
        self.wait()
        folder = self.local / "out"
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
        """Until the last upload is done; raises what it raised."""
        if self._upload:
            self._upload.join()
            self._upload = None
        if self._failure:
            raise self._failure

    def load(self, engine: Any, found: Complete) -> dict[str, Any]:
        """Restore engine and client state; every rank loads the same verified files."""
        folder = self.local / "in"
        tag = "as-saved" if found.layout == self.layout else "regrouped"
        if self.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            self._fetch(found, folder / "as-saved")
            if tag == "regrouped":
                regroup(folder / "as-saved", folder / tag)
        dist.barrier()
        _, state = engine.load_checkpoint(str(folder), tag=tag)
        return dict(state)

    def _fetch(self, found: Complete, target: Path) -> None:
        source = found.folder(self.key)
        for rank in range(found.layout.ranks):
            for name, digest in orjson.loads(self.store.backend.get(f"{source}/rank-{rank}.json")).items():
                data = self.store.backend.get(f"{source}/{name}")
                if sha256(data) != digest:
                    raise CorruptError(f"checkpoint {found.step}: {name} does not match its digest; delete {source}")
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
