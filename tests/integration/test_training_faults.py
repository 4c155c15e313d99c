"""A killed training loses nothing: rerun, and it ends with the digests of an undisturbed run."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy
import orjson
import pytest
import safetensors
import safetensors.numpy
from faults import (
    EVERY,
    STEPS,
    complete_checkpoints,
    finish,
    kill,
    lines,
    prepare,
    ranks_of,
    start,
    trainers,
    training_log,
    wait_for,
    weights,
)

from tokenmill.steps import configured, find
from tokenmill.store import acquire, open_store
from tokenmill.tracking import RunRef
from tokenmill.training.messages import Result, Spec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def killed(prepared, tmp_path_factory):
    """The store of a training by two ranks that was killed with two whole checkpoints; tests copy it."""
    root, inputs, _ = prepared
    folder = tmp_path_factory.mktemp("killed") / "store"
    shutil.copytree(root / "store", folder)
    process = start(folder, inputs)
    wait_for(lambda: len(complete_checkpoints(folder)) > 1 or process.poll() is not None, "two checkpoints")
    assert process.poll() is None, "it was over before it could be killed"
    kill(folder, process)
    return folder


@pytest.fixture
def left(killed, tmp_path):
    """What a killed training left, to go on from, and its newest whole checkpoint's step."""
    shutil.copytree(killed, tmp_path / "store")
    return tmp_path / "store", max(complete_checkpoints(tmp_path / "store"))


def kill_and_rerun(prepared, tmp_path, when):
    root, inputs, expected = prepared
    folder = tmp_path / "store"
    shutil.copytree(root / "store", folder)
    process = start(folder, inputs)
    when(folder, process)
    assert process.poll() is None, "it was over before it could be killed"
    kill(folder, process)
    resumed_from = max(complete_checkpoints(folder), default=0)
    assert finish(start(folder, inputs)) == expected
    return folder, resumed_from


@pytest.mark.parametrize("step", [EVERY, 3 * EVERY])
def test_kill_after_a_checkpoint_resumes_from_it_to_the_same_digests(prepared, tmp_path, step):
    def when(folder, process):
        wait_for(lambda: step in complete_checkpoints(folder) or process.poll() is not None, f"checkpoint {step}")

    _, resumed_from = kill_and_rerun(prepared, tmp_path, when)
    assert resumed_from >= step


def test_two_nodes_of_a_rank_each_are_one_of_two(prepared, tmp_path):
    """Two torchruns meet at a port; both nodes are this machine."""
    root, inputs, expected = prepared
    shutil.copytree(root / "store", tmp_path / "store")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    execution = "pretraining.pretrain.short.execution"
    settings = [f"{execution}.nodes=2", f"{execution}.rendezvous_port={port}"]
    process = start(tmp_path / "store", inputs, settings=settings)
    wait_for(lambda: len(trainers(tmp_path / "store")) == 2 or process.poll() is not None, "both ranks")
    launched = [one for one in ranks_of(tmp_path / "store") if "torch.distributed.run" in " ".join(one.cmdline())]
    assert len(launched) == 2
    assert finish(process) == expected


def test_kill_before_any_checkpoint_starts_anew_to_the_same_digests(prepared, tmp_path):
    _, resumed_from = kill_and_rerun(
        prepared, tmp_path, lambda folder, process: wait_for(lambda: len(ranks_of(folder)) >= 2, "two ranks")
    )
    assert resumed_from == 0


def test_a_checkpoint_without_every_marker_is_not_taken_for_whole(prepared, left):
    (_, inputs, expected), (folder, newest) = prepared, left
    next(folder.glob(f"work/*/checkpoints/{newest}/*/rank-1.json")).unlink()
    for file in folder.glob(f"work/*/checkpoints/{newest}/*/*.pt"):
        file.write_bytes(b"torn")
    assert finish(start(folder, inputs)) == expected


def begun(prepared, tmp_path):
    """A training that has stored a checkpoint."""
    root, inputs, _ = prepared
    folder = tmp_path / "store"
    shutil.copytree(root / "store", folder)
    process = start(folder, inputs)
    wait_for(lambda: complete_checkpoints(folder) or process.poll() is not None, "a checkpoint")
    return folder, process


@pytest.mark.parametrize("whom", ["ranks", "step"])
def test_sigterm_writes_a_checkpoint_and_a_rerun_goes_on_from_it(prepared, tmp_path, whom):
    folder, process = begun(prepared, tmp_path)
    for one in trainers(folder) if whom == "ranks" else [process]:
        one.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err[-1500:]
    told = re.fullmatch(
        r"tokenmill: pretraining.pretrain.short: stopped by SIGTERM after step (\d+); .*", lines(err)[-1]
    )
    assert told and int(told[1]) in complete_checkpoints(folder), err
    assert "Traceback" not in err
    assert finish(start(folder, prepared[1])) == prepared[2]


def test_a_killed_rank_is_named_and_a_rerun_goes_on(prepared, tmp_path):
    folder, process = begun(prepared, tmp_path)
    next(rank for rank in trainers(folder) if rank.environ()["RANK"] == "1").kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err[-1500:]
    assert lines(err)[-1] == (
        "tokenmill: pretraining.pretrain.short: rank 1 of 2 was killed by signal 9 (SIGKILL): out of memory on the host?: "
        "rerun to go on from the newest checkpoint, with fewer ranks a node or more memory"
    )
    assert finish(start(folder, prepared[1])) == prepared[2]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(prepared, left):
    (_, inputs, expected), (folder, newest) = prepared, left
    next(folder.glob(f"work/*/checkpoints/{newest}/*/*.pt")).write_bytes(b"damaged")
    process = start(folder, inputs)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-2000:]
    assert re.search(
        rf"checkpoint of step {newest}: .* does not match its digest; trying the checkpoint before it", err
    )
    assert orjson.loads(out.splitlines()[-1]) == expected


@pytest.mark.parametrize("after", [(1, 1), (2, 2), (4, 1)])
def test_another_layout_than_of_two_ranks_goes_on_from_their_checkpoint(prepared, left, after):
    goes_on_as_if_undisturbed(prepared, left[0], 2, after)


def test_two_ranks_go_on_from_the_checkpoint_of_one(prepared, tmp_path):
    root, inputs, _ = prepared
    folder = tmp_path / "store"
    shutil.copytree(root / "store", folder)
    process = start(folder, inputs, 1)
    wait_for(lambda: complete_checkpoints(folder, 1) or process.poll() is not None, "a checkpoint")
    kill(folder, process)
    goes_on_as_if_undisturbed(prepared, folder, 1, (2, 1))


def goes_on_as_if_undisturbed(prepared, folder, before, after):
    """The 20 steps after the first checkpoint are those of an undisturbed run, but for the order of sums over ranks."""
    root, inputs, expected = prepared
    for later in complete_checkpoints(folder, before) - {EVERY}:
        for checkpoint in folder.glob(f"work/*/checkpoints/{later}"):
            shutil.rmtree(checkpoint)
    process = start(folder, inputs, *after)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-2000:]
    assert f"going on from the checkpoint of step {EVERY} by {before} rank" in err
    calm, resumed = training_log(root / "calm", expected), training_log(folder, orjson.loads(out.splitlines()[-1]))
    assert list(resumed) == list(calm) == list(range(STEPS))
    for name in ("lr", "tokens"):
        assert [row[name] for row in resumed.values()] == [row[name] for row in calm.values()]
    for name in ("loss", "grad_norm"):
        numpy.testing.assert_allclose(
            [row[name] for row in resumed.values()], [row[name] for row in calm.values()], rtol=1e-5
        )


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "F32"), ("bf16", "BF16")])
def test_weights_are_of_the_configured_precision(prepared, tmp_path, precision, kind):
    folder = tmp_path / "store"
    shutil.copytree(prepared[0] / "store", folder)
    settings = [f"pretraining.pretrain.short.precision={precision}", "pretraining.pretrain.short.tokens=1024"]
    digests = finish(start(folder, prepared[1], settings=settings))
    store = open_store(f"file://{folder}")
    shards = {shard.name: shard.blob for shard in store.get_manifest(digests["weights"]).shards}
    with safetensors.safe_open(store.blob_path(shards["model.safetensors"]), "numpy") as opened:
        kinds = {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 (no mapping)
    assert kinds == {kind}


def test_a_rank_needs_an_empty_folder_a_uri_and_the_environment(prepared, tmp_path):
    """As in a pod: no checkout, no home, nothing of the launcher's but what the spec says."""
    root, inputs, _ = prepared
    shutil.copytree(root / "store", tmp_path / "store")
    store = open_store(f"file://{tmp_path}/store")
    lease = acquire(store, "0" * 64, ttl_s=60)
    spec = Spec(
        store=store.uri,
        step="pretraining.pretrain.short",
        version=find("pretraining.pretrain.short").version,
        config=pico_config(tokens=1024),
        inputs={role: (digest,) for role, digest in (one.split("=") for one in inputs)},
        key="0" * 64,
        attempt=lease.attempt,
        run=RunRef.new("test", "pico"),
        task="train",
    )
    store.backend.put(f"{spec.folder}/spec.json", spec.model_dump_json().encode())
    (tmp_path / "empty").mkdir()
    rendezvous = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    with lease:
        done = subprocess.run(
            [sys.executable, "-m", "tokenmill.training.worker", spec.uri],
            cwd=tmp_path / "empty",
            env=rendezvous | {"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    result = Result.model_validate_json(store.backend.get(f"{spec.folder}/result.json"))
    assert result.outputs["weights"].counts["steps"] == 2
    assert not store.missing(result.outputs["weights"].shards)
    assert not list((tmp_path / "empty").iterdir())


def pico_config(**changes):
    """What a spec says of a pico pretraining: all but defaults."""
    definition = find("pretraining.pretrain.short")
    overrides = {f"{definition.section}.{name}": value for name, value in changes.items()}
    config = configured(definition, "pico", overrides)
    return config.model_dump(mode="json", exclude_defaults=True)


def test_stage_3_publishes_whole_weights(prepared, tmp_path):
    root, inputs, expected = prepared
    folder = tmp_path / "store"
    shutil.copytree(root / "store", folder)
    sharded, whole = (
        weights(folder, finish(start(folder, inputs, zero=3, settings=("pretraining.pretrain.short.kept=0",)))),
        weights(root / "calm", expected),
    )
    assert sharded.keys() == whole.keys()
    for name, values in whole.items():
        numpy.testing.assert_allclose(sharded[name], values, atol=1e-4, err_msg=name)
