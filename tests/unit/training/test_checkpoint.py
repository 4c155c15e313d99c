"""Checkpoints where ranks store at different speed, and where stored bytes are damaged."""

import time
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing

from tokenmill.errors import CorruptError
from tokenmill.logs import Log
from tokenmill.store import open_store
from tokenmill.training.checkpoint import Checkpoints
from tokenmill.training.resume import complete_checkpoints


class Files:
    """What of a DeepSpeed engine a checkpoint needs: a file of each rank."""

    def save_checkpoint(self, folder, tag, **_):
        path = Path(folder) / tag / f"{dist.get_rank()}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"rank {dist.get_rank()} at step {tag}")
        dist.barrier()


def save_twice(rank, root):
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=2)
    store = open_store(f"file://{root}/store")
    if rank == 1:
        put = store.backend.put
        store.backend.put = lambda key, data: (time.sleep(0.5), put(key, data))
    checkpoints = Checkpoints(store, "key", root / "local", zero_stage=1, log=Log())
    for step in (4, 8):
        checkpoints.save(Files(), step, {})
    checkpoints.wait()
    if rank == 0:
        assert [c.step for c in complete_checkpoints(store, "key")] == [4, 8]  # rank 0 may leave now
    dist.barrier()
    dist.destroy_process_group()


def test_a_rank_that_stores_slowly_keeps_its_files_until_they_are_stored(tmp_path):
    torch.multiprocessing.spawn(save_twice, (tmp_path,), nprocs=2)
    assert (tmp_path / "store/work/key/checkpoints/8/ranks-2-zero-1/rank-1.json").exists()


def damage_both(rank, root):
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=1)
    store = open_store(f"file://{root}/store")
    checkpoints = Checkpoints(store, "key", root / "local", zero_stage=1, log=Log())
    for step in (4, 8):
        checkpoints.save(Files(), step, {})
    checkpoints.wait()
    assert checkpoints.newest().step == 8
    store.backend.put("work/key/checkpoints/8/ranks-1-zero-1/0.pt", b"damaged")
    assert checkpoints.newest().step == 4
    store.backend.put("work/key/checkpoints/4/ranks-1-zero-1/0.pt", b"damaged")
    with pytest.raises(CorruptError, match="none of 2 checkpoints is whole: delete work/key/checkpoints in"):
        checkpoints.newest()
    dist.destroy_process_group()


def test_damaged_checkpoints_give_way_until_none_is_left(tmp_path):
    torch.multiprocessing.spawn(damage_both, (tmp_path,), nprocs=1)
