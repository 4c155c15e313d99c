"""Checkpoints where ranks store at different speed, where stored bytes are damaged, and what each rank gets back."""

import random
import threading
from pathlib import Path

import numpy
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from tokenmill.errors import CorruptError
from tokenmill.logs import Log
from tokenmill.store import open_store
from tokenmill.training.checkpoint import Checkpoints
from tokenmill.training.resume import complete_checkpoints
from tokenmill.training.settings import TrainingExecution
from tokenmill.training.snapshot import Memory


class Files:
    """What of a DeepSpeed engine a checkpoint needs: a file of each rank."""

    checkpoint_engine = None

    def __init__(self):
        self.weights = torch.full((1000,), float(dist.get_rank()))

    def save_checkpoint(self, folder, tag, **_):
        state = {"weights": self.weights}
        self.checkpoint_engine.save(state, str(Path(folder) / tag / f"{dist.get_rank()}.pt"))
        dist.barrier()

    def load_checkpoint(self, folder, tag):
        self.weights = torch.load(Path(folder) / tag / f"{dist.get_rank()}.pt")["weights"]


pytestmark = pytest.mark.integration


def begin(rank, root, world, **execution):
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=world)
    store = open_store(f"file://{root}/store")
    return store, Checkpoints(store, "key", root / "local", TrainingExecution(**execution), Log())


def save_slowly(rank, root):
    store, checkpoints = begin(rank, root, 2, keep_last=3)
    let_go, stored = threading.Event(), []
    if rank == 1:
        put = store.backend.put
        store.backend.put = lambda key, data: (let_go.wait(20), stored.append(key), put(key, data))
    engine = Files()
    for step in (4, 8):
        checkpoints.save(engine, step, {})
        engine.weights += 10  # training goes on
    assert not stored, "two slots: neither save waits for an upload"
    third = threading.Thread(target=checkpoints.save, args=(engine, 12, {}))
    third.start()
    third.join(0.3)
    assert rank == 0 or third.is_alive(), "the third waits for the first"
    let_go.set()
    third.join()
    checkpoints.wait()
    if rank == 0:
        assert [c.step for c in complete_checkpoints(store, "key")] == [4, 8, 12]  # rank 0 may leave now
    dist.barrier()
    for step, grown in ((4, 0), (8, 10), (12, 20)):
        stored = store.backend.open(f"work/key/checkpoints/{step}/ranks-2-zero-1/{rank}.pt")
        assert torch.load(stored)["weights"].tolist() == [float(rank + grown)] * 1000
    dist.destroy_process_group()


def test_a_rank_that_stores_slowly_holds_no_step_up_and_each_checkpoint_is_of_its_own_step(tmp_path):
    torch.multiprocessing.spawn(save_slowly, (tmp_path,), nprocs=2)


def draw():
    return random.random(), float(numpy.random.rand()), float(torch.rand(()))


def keep_chance(rank, root):
    _, checkpoints = begin(rank, root, 2)
    random.seed(rank), numpy.random.seed(rank), torch.manual_seed(rank)
    engine = Files()
    checkpoints.save(engine, 4, {"step": 4, "tokens": 2048})
    expected = draw()
    checkpoints.wait()
    engine.weights = None
    assert checkpoints.load(engine, checkpoints.newest()) == {"step": 4, "tokens": 2048}
    assert engine.weights[0] == rank
    assert draw() == expected
    both = [None, None]
    dist.all_gather_object(both, expected)
    assert both[0] != both[1]
    dist.destroy_process_group()


def test_every_rank_gets_its_own_chance_back(tmp_path):
    torch.multiprocessing.spawn(keep_chance, (tmp_path,), nprocs=2)


def no_room(rank, root):
    store, checkpoints = begin(rank, root, 1)

    def put(key, data):
        raise OSError("no space left")

    checkpoints.save(Files(), 4, {})
    checkpoints.wait()
    store.backend.put = put
    checkpoints.save(Files(), 8, {})
    with pytest.raises(OSError, match="no space left"):
        checkpoints.wait()
    assert [c.step for c in complete_checkpoints(store, "key")] == [4]
    dist.destroy_process_group()


def test_an_upload_that_fails_is_told_to_the_training(tmp_path):
    torch.multiprocessing.spawn(no_room, (tmp_path,), nprocs=1)


def test_a_copy_shares_what_the_state_shares_and_uses_its_room_again():
    flat = torch.arange(10.0)
    state = {"flat": flat, "parts": [flat[2:4], flat[4:].view(2, 3)], "step": 7, "none": None, "empty": torch.empty(0)}
    memory = Memory()
    copy = memory.copy(state)
    flat += 100
    assert copy["flat"].tolist() == list(range(10)) and copy["parts"][1].tolist() == [[4, 5, 6], [7, 8, 9]]
    assert copy["parts"][0].data_ptr() == copy["flat"].data_ptr() + 8 and copy["step"] == 7
    place = copy["flat"].data_ptr()
    memory.release()
    again = memory.copy(state)
    assert again["flat"].data_ptr() == place and again["flat"][0] == 100


def damage_both(rank, root):
    store, checkpoints = begin(rank, root, 1)
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
