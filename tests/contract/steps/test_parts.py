"""A part of a step's work: done once, kept under its marker, and done again if what it wrote is gone."""

from pathlib import Path

import pytest

from tokenmill.records import read_jsonl, write_jsonl
from tokenmill.steps import Drop, Keep, Reject
from tokenmill.steps.files import store_file
from tokenmill.steps.partitions import Partitions, PartJob, sift_part
from tokenmill.steps.shards import ShardJob, sift_shard
from tokenmill.steps.tally import Tally
from tokenmill.store import open_store

CALLS: list[str] = []


def numbers(item: range):
    CALLS.append(str(item))
    for n in item:
        record = {"n": n, "type": "web", "lang": "zh" if n % 2 else "en"}
        yield Reject("odd one (7)", f"n {n}") if n == 7 else Drop("five", record, n, 0) if n % 5 == 0 else Keep(record)


@pytest.fixture
def store(tmp_path):
    CALLS.clear()
    return open_store(f"file://{tmp_path}/store")


def job(store, item=range(1, 20), marker="work/key/parts/a.json"):
    return PartJob(store, item, numbers, lambda r: f"type={r['type']}/lang={r['lang']}", 3, marker)


def test_a_finished_part_is_not_done_again_and_a_lost_one_is(store):
    first = sift_part(job(store))
    assert sift_part(job(store)) == first and len(CALLS) == 1
    gone = first.kept["type=web/lang=en"][1].blob
    store.backend.delete(f"blobs/{gone[:2]}/{gone}")
    assert sift_part(job(store)) == first and len(CALLS) == 2
    assert not store.missing(first.shards)


def keep_and_drop(record):
    CALLS.append(str(record["n"]))
    return Drop("five", record, record["n"], 0) if record["n"] % 5 == 0 else Keep(record)


@pytest.mark.parametrize("lost", ["kept", "aside"])
def test_a_finished_shard_is_not_done_again_and_one_whose_output_is_gone_is(store, tmp_path, lost):
    """An attempt that was killed left a marker; collection may have taken since what it speaks of."""
    write_jsonl(tmp_path / "in.jsonl.zst", [{"n": n} for n in range(1, 20)])
    shard = store_file(store, tmp_path / "in.jsonl.zst", "in.jsonl.zst")
    todo = ShardJob(store.uri, shard, keep_and_drop, "work/key/shards/a.json")
    first = sift_shard(todo)
    assert sift_shard(todo) == first and len(CALLS) == 19
    gone = (first.kept["in.jsonl.zst"] if lost == "kept" else first.aside["dropped"])[0].blob
    store.backend.delete(f"blobs/{gone[:2]}/{gone}")
    assert sift_shard(todo) == first and len(CALLS) == 38
    assert not store.missing(first.shards)


def test_parts_joined_are_the_bytes_of_one_stream(store, tmp_path):
    whole, joined = (Partitions(store, tmp_path / name, shard_records=3) for name in ("whole", "joined"))
    for outcome in numbers(range(1, 40)):
        whole.add(outcome)
    for number, item in enumerate((range(1, 9), range(9, 10), range(10, 10), range(10, 40))):
        joined.take(sift_part(job(store, item, f"work/key/parts/{number}.json")))
    assert joined.close() == whole.close()


def test_the_sum_holds_and_a_tally_survives_its_own_json(store):
    tally = sift_part(job(store))
    kept = [r["n"] for shards in tally.kept.values() for s in shards for r in read_jsonl(store.blob_path(s.blob))]
    assert sorted(kept) == [n for n in range(1, 20) if n % 5 and n != 7]
    assert tally.records == 19 == len(kept) + sum(tally.reasons.values())
    assert tally.reasons == {"five": 3, "rejected:odd one": 1} and tally.rejected == 1
    assert tally.first_reject == "n 7: odd one (7)"
    assert Tally.from_json(tally.to_json()) == tally
    assert not list(Path(store.uri.removeprefix("file://")).glob(".unfinished/*"))
