"""Checkpoints that a kill cannot tear: copy in memory, two slots on the local disk, background upload, marker last.

A step waits for the copy alone. A thread writes it to one of two slots and uploads it from there while training goes on; the
other slot is free for the next one meanwhile. A rank's marker, written last, lists its files with their sha256. A checkpoint
is complete when every rank's marker is there; only files named in a marker and with that digest are ever loaded, because
DeepSpeed's own format is pickle. One that fails this gives way to the one before it. What another layout wrote is regrouped
first.
"""

import hashlib
import os
import shutil
import threading
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
import torch.distributed as dist

from tokenmill.errors import CorruptError
from tokenmill.logs import Log
from tokenmill.store import ArtifactStore
from tokenmill.store.backend import NotFoundError
from tokenmill.training.resume import Complete, Layout, surplus, usable_checkpoints
from tokenmill.training.rng import restore_rng, rng_state
from tokenmill.training.settings import TrainingExecution
from tokenmill.training.snapshot import Memory, collect

AS_SAVED = "as-saved"
STATE = "state.json"
SLOTS = 2


class Checkpoints:
    """The checkpoints of one action key."""

    def __init__(self, store: ArtifactStore, key: str, local: Path, execution: TrainingExecution, log: Log) -> None:
        self.store, self.key, self.local, self.execution, self.log = store, key, local, execution, log
        self.rank = dist.get_rank()
        self.layout = Layout(dist.get_world_size(), execution.zero_stage)
        self.stored_at = time.time()
        """When the newest one was stored; before that, when this began."""
        self._memory = Memory()
        self._uploads: list[_Upload] = []

    def newest(self) -> Complete | None:
        """Fetch what to go on from: rank 0 looks, so that all ranks go on from the same.

        Raises:
            CorruptError: there are checkpoints, and none is whole.
        """
        found = [self._fetch_newest() if self.rank == 0 else None]
        dist.broadcast_object_list(found, src=0)
        if found[0] and self.rank and os.environ.get("LOCAL_RANK") == "0":  # the first of another node
            self._fetch(found[0], self.local / "in" / AS_SAVED)
        dist.barrier()
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

    def save(self, engine: Any, step: int, state: Mapping[str, Any], before: Mapping[str, bytes] | None = None) -> None:
        """Take a checkpoint before `step`.

        Args:
            engine: DeepSpeed's.
            step: that a training will go on with.
            state: of the loop, as JSON; rank 0's is kept.
            before: objects that rank 0 stores before its marker.
        """
        while len(self._uploads) >= SLOTS:  # the one that has the slot
            self._uploads.pop(0).wait()
        if self._uploads:
            self._uploads[-1].written.wait()  # it has the memory until then
        held = collect(engine) | {f"rng-{self.rank}.pt": rng_state()}
        self._uploads.append(
            _Upload(
                self,
                Complete(step, self.layout),
                self._memory.copy(held),
                {STATE: orjson.dumps(state)} if self.rank == 0 else {},
                before or {},
                previous=self._uploads[-1] if self._uploads else None,
            )
        )
        self._uploads[-1].start()

    def free_slot(self) -> Path:
        """A folder of this rank's that no checkpoint is on its way to the store from."""
        taken = {upload.slot for upload in self._uploads}
        slots = [self.local / f"rank-{self.rank}" / f"slot-{number}" for number in range(SLOTS)]
        return next(slot for slot in slots if slot not in taken)

    def wait(self) -> None:
        """Until the uploads of every rank are done. Raises what ours raised."""
        while self._uploads:
            self._uploads.pop(0).wait()
        dist.barrier()

    def load(self, engine: Any, found: Complete) -> dict[str, Any]:
        """Restore the engine and this rank's chance; returns the loop's state. `newest` has fetched the files."""
        folder, tag = self.local / "in", AS_SAVED
        if found.layout != self.layout:
            tag = "regrouped"
            if self.rank == 0 or os.environ.get("LOCAL_RANK") == "0":
                regroup(folder / AS_SAVED, folder / tag)
            dist.barrier()
        engine.load_checkpoint(str(folder), tag=tag)
        of = self.rank % found.layout.ranks  # ranks that it did not have go on as those that it had
        restore_rng(torch.load(folder / AS_SAVED / f"rng-{of}.pt", map_location="cpu", weights_only=True))
        return dict(orjson.loads((folder / AS_SAVED / STATE).read_bytes()))

    def _fetch(self, found: Complete, target: Path) -> None:
        source = found.folder(self.key)
        for rank in range(found.layout.ranks):
            for name, digest in orjson.loads(self.store.backend.get(f"{source}/rank-{rank}.json")).items():
                try:
                    self.store.backend.fetch(f"{source}/{name}", target / name)
                except NotFoundError:
                    raise CorruptError(f"checkpoint of step {found.step}: {name} is missing") from None
                if file_digest(target / name) != digest:
                    raise CorruptError(f"checkpoint of step {found.step}: {name} does not match its digest")

    def prune(self) -> None:
        """Delete what the policy does not keep, markers first, so that none is ever half there."""
        prefix = f"work/{self.key}/checkpoints/"
        keys = [entry.key for entry in self.store.backend.list(prefix)]
        gone = surplus(keys, self.execution.keep_last, self.execution.keep_every)
        for key in sorted(gone, key=lambda k: not k.endswith(".json")):
            self.store.backend.delete(key)


class _Upload(threading.Thread):
    """One rank's share of a checkpoint, on its way from memory through a slot to the store."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        target: Complete,
        states: dict[str, Any],
        files: dict[str, bytes],
        before: Mapping[str, bytes],
        previous: "_Upload | None",
    ) -> None:
        super().__init__(name=f"checkpoint-{target.step}", daemon=True)
        self.checkpoints, self.target, self.states, self.files, self.before = checkpoints, target, states, files, before
        self.previous = previous
        self.slot = checkpoints.free_slot()
        self.written = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            try:
                self._write()
            finally:
                self.states = {}
                self.checkpoints._memory.release()
                self.written.set()
            if self.previous:
                self.previous.wait()  # markers come in order: this log's pieces follow those of the one before
                self.previous = None
            self._store()
        except BaseException as failure:  # handed to the training thread by wait()
            self.failure = failure

    def wait(self) -> None:
        """Until it is stored. Raises what went wrong."""
        self.join()
        if self.failure:
            raise self.failure

    def _write(self) -> None:
        shutil.rmtree(self.slot, ignore_errors=True)
        self.slot.mkdir(parents=True)
        for name, state in self.states.items():
            torch.save(state, self.slot / name)
        for name, data in self.files.items():
            (self.slot / name).write_bytes(data)

    def _store(self) -> None:
        backend, folder = self.checkpoints.store.backend, self.target.folder(self.checkpoints.key)
        digests = {}
        for path in sorted(self.slot.iterdir()):
            backend.put(f"{folder}/{path.name}", path)
            digests[path.name] = file_digest(path)
        for key, data in self.before.items():
            backend.put(key, data)
        backend.put(f"{folder}/rank-{self.checkpoints.rank}.json", orjson.dumps(digests))
        self.checkpoints.stored_at = time.time()
        if self.checkpoints.rank == 0:
            self.checkpoints.prune()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
