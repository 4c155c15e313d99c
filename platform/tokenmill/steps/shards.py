"""A function over the records of one shard, in a worker process; the shard keeps its name and the order of its records."""

from collections.abc import Callable
from dataclasses import dataclass

from tokenmill.manifest import Shard
from tokenmill.records import Record, line_of, read_lines_and_records
from tokenmill.steps.files import scratch
from tokenmill.steps.outcomes import Keep, Outcome
from tokenmill.steps.partitions import OpenShard
from tokenmill.steps.tally import Tally
from tokenmill.store import open_store


@dataclass
class ShardJob:
    """What a worker needs for one shard; `marker` is where its tally is kept."""

    store_uri: str
    shard: Shard
    function: Callable[[Record], Outcome | Record]
    marker: str | None


def sift_shard(job: ShardJob) -> Tally:
    """Do one shard, unless its marker says that an attempt before this one did it and what it wrote is still there."""
    store = open_store(job.store_uri)
    if job.marker and store.backend.exists(job.marker):
        done = Tally.from_json(store.backend.get(job.marker))
        if not store.missing(done.shards):
            return done
    tally, name = Tally(), job.shard.name
    with scratch() as workdir:
        kept = OpenShard(name, workdir / "shards" / name)
        aside = dict[str, OpenShard]()
        for line, record in read_lines_and_records(store.blob_path(job.shard.blob)):
            outcome = job.function(record)
            if isinstance(outcome, dict):
                outcome = Keep(outcome)
            tally.count(outcome)
            if isinstance(outcome, Keep):
                kept.lines.write(line if outcome.record is record else line_of(outcome.record))
                continue
            if outcome.folder not in aside:
                beside = f"{outcome.folder}/{name}"
                aside[outcome.folder] = OpenShard(beside, workdir / "shards" / beside)
            aside[outcome.folder].lines.write(line_of(outcome.told()))
        kept.lines.close()
        if kept.lines.count:
            tally.kept[name] = [kept.store(store)]
        tally.aside = {folder: [shard.store(store)] for folder, shard in sorted(aside.items())}
    if job.marker:
        store.backend.put(job.marker, tally.to_json())
    return tally
