"""Groups: every shard in exactly one, none larger than asked, and the same ones whatever the order."""

import itertools
import random

import pytest

from tokenmill.curation.config import MergeConfig, PlanConfig
from tokenmill.curation.merge import merge
from tokenmill.curation.plan import in_groups, loop_items, plan
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest, Shard, sha256


def shard(name: str, size: int, records: int = 1) -> Shard:
    digest = sha256(name.encode())
    return Shard(name=name, blob=digest, content=digest, size=size, records=records)


def issued(kind: str, *shards: Shard) -> Manifest:
    return Manifest.issue(Draft(kind=kind, shards=shards), parents={}, step="test", version=1, config={})


def test_groups_hold_every_shard_once_and_at_most_the_bytes_asked_for():
    shards = [shard(f"part-{i:03}", random.Random(i).randrange(1, 400)) for i in range(200)]
    groups = list(in_groups(random.Random(1).sample(shards, 200), 1000, lambda s: s.size))
    assert [s for group in groups for s in group] == shards
    assert all(sum(s.size for s in group) <= 1000 for group in groups)
    # and no group could have taken the next one's first shard
    for group, after in itertools.pairwise(groups):
        assert sum(s.size for s in group) + after[0].size > 1000


def test_a_shard_larger_than_a_group_stands_alone():
    groups = list(in_groups([shard("a", 10), shard("b", 5000), shard("c", 10)], 1000, lambda s: s.size))
    assert [[s.name for s in group] for group in groups] == [["a"], ["b"], ["c"]]


def test_what_is_told_about_a_source_goes_with_every_group_of_its_files():
    told = shard("dumps/crawl/dump.json", 10)
    sources = issued("sources", shard("web/crawl/a.html", 60), shard("web/crawl/b.html", 60), told)
    groups = plan(PlanConfig(group_bytes=100), [sources], None)
    assert [sorted(s.name for s in d.shards) for d in groups.values()] == [
        ["dumps/crawl/dump.json", "web/crawl/a.html"],
        ["dumps/crawl/dump.json", "web/crawl/b.html"],
    ]
    assert [d.counts for d in groups.values()] == [{"files": 1, "bytes": 60}] * 2


def test_corpora_are_taken_together_in_any_order():
    one = issued("corpus", shard("type=web/lang=en/part-00000.jsonl.zst", 60, records=3))
    other = issued("corpus", shard("type=web/lang=zh/part-00000.jsonl.zst", 60, records=4))
    config = PlanConfig(group_bytes=100)
    there, back = plan(config, [one, other], None), plan(config, [other, one], None)
    assert there == back
    assert [d.counts["records"] for d in there.values()] == [3, 4]


def test_a_loop_names_its_tasks_after_the_group_only_where_there_are_several():
    one, other = issued("corpus", shard("a", 1)), issued("corpus", shard("b", 1))
    assert loop_items({"group-00000": one}) == [{"digest": one.digest, "suffix": ""}]
    assert [item["suffix"] for item in loop_items({"group-00001": other, "group-00000": one})] == [
        ".group-00000",
        ".group-00001",
    ]


def test_where_every_group_lost_everything_the_merge_says_why():
    empty = [
        Manifest.issue(
            Draft(kind="corpus", shards=(), counts={"records": 0}, dropped={"length": n, "empty": 1}),
            parents={}, step="curation.filter", version=1, config={},
        )
        for n in (20, 3)
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"no record left in 2 corpora; dropped last: {'length': 23, 'empty': 2}"):
        merge(MergeConfig(), empty, None)
