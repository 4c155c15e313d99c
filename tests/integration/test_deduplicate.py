"""Deduplication over a real store: one step beside its parts, a stored index, worker processes."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest

from tokenmill.curation import boilerplate
from tokenmill.curation.repeats_config import DeduplicateConfig
from tokenmill.errors import ConfigError, InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.records import read_jsonl, write_jsonl
from tokenmill.steps import find, run_step
from tokenmill.steps.files import store_file
from tokenmill.store import open_store
from tokenmill.tracking import RunRef


class Steps:
    """Runs steps in one store."""

    def __init__(self, folder) -> None:
        self.folder, self.store, self.workers = folder, open_store((folder / "store").as_uri()), 1

    def __call__(self, step: str, config: dict | None = None, **inputs) -> dict[str, Manifest]:
        name = f"curation.{step}"
        settings = find(name).config.at(name, (config or {}) | {"execution": {"workers": self.workers}})
        run = RunRef(key="test", name="test")
        return run_step(name, settings, inputs, store=self.store, run=run)

    def corpus(self, records: list[dict], per_shard: int = 40) -> Manifest:
        shards = []
        for n, start in enumerate(range(0, len(records), per_shard)):
            path = self.folder / "shard.jsonl.zst"
            _, count = write_jsonl(path, records[start : start + per_shard])
            shards.append(store_file(self.store, path, f"type=web/lang=en/part-{n:05d}.jsonl.zst", count))
        draft = Draft(kind="corpus", shards=tuple(shards), counts={"records": len(records)})
        manifest = Manifest.issue(draft, parents={}, step="test", version=1, config={})
        self.store.put_manifest(manifest)
        return manifest

    def records(self, manifest: Manifest, aside: bool = False) -> list[dict]:
        shards = manifest.aside if aside else manifest.shards
        return [r for s in shards for r in read_jsonl(self.store.blob_path(s.blob))]

    def ids(self, manifest: Manifest) -> set[str]:
        return {r["id"] for r in self.records(manifest)}


@pytest.fixture
def steps(tmp_path):
    return Steps(tmp_path)


def documents(count: int, seed: int, dump: str, like: list[dict] = ()) -> list[dict]:
    """Documents of random words; about a third take most of their text from another, just above or below 0.7."""
    rng = random.Random(seed)
    made: list[dict] = []
    for n in range(count):
        words = [f"{rng.getrandbits(40):x}" for _ in range(120)]
        pool = [*like, *made]
        if pool and rng.random() < 0.35:
            source = rng.choice(pool)["text"].split()
            share = rng.choice([1.0, 0.95, 0.85, 0.8, 0.6])
            words = source[: int(share * len(source))] + words[int(share * 120) :]
        made.append(
            {"id": f"{rng.getrandbits(64):016x}", "text": " ".join(words), "type": "web", "lang": "en", "dump": dump}
        )
    return made


def test_the_step_and_its_parts_in_parallel_tasks_give_the_same_corpus_index_and_reasons(steps):
    corpus = steps.corpus(documents(400, 1, "2023-06"))
    whole = steps("deduplicate", corpus=corpus)
    assert whole["output"].counts["in"] == 400 and whole["output"].dropped["near_duplicate"] > 20

    groups = steps("plan", {"group_bytes": 3 * corpus.shards[0].size}, whole=corpus)
    prints = [steps("fingerprint", corpus=group)["output"] for group in groups.values()]
    index = steps("gather", parts=prints[::-1])["output"]
    plan = steps("plan_exchange", {"part_records": 70}, fingerprints=index)["output"]
    assert len(groups) > 3 and plan.counts["parts"] == 6
    parts = [steps("exchange", {"part": p, "part_records": 70}, fingerprints=index)["output"] for p in range(6)]
    decided = steps("cluster", fingerprints=index, pairs=parts[::-1], corpus=corpus)
    unique = [steps("deduplicate", corpus=group, duplicates=decided["output"])["output"] for group in groups.values()]
    gathered = steps("gather", parts=unique[::-1], whole=corpus)["output"]
    assert gathered.content == whole["output"].content
    assert (gathered.counts, gathered.dropped) == (whole["output"].counts, whole["output"].dropped)
    assert {(s.name, s.content) for s in gathered.aside} == {(s.name, s.content) for s in whole["output"].aside}
    assert decided["index"].content == whole["index"].content
    assert steps("gather", parts=prints)["output"].content == steps("fingerprint", corpus=corpus)["output"].content


@pytest.mark.usefixtures("workers_at_once")
def test_worker_processes_change_nothing(steps):
    corpus = steps.corpus(documents(200, 2, "2023-06"))
    alone = steps("deduplicate", corpus=corpus)
    other = Steps(steps.folder / "other")
    (steps.folder / "other").mkdir()
    other.workers = 2
    together = other("deduplicate", corpus=other.corpus(documents(200, 2, "2023-06")))
    assert {role: m.content for role, m in alone.items()} == {role: m.content for role, m in together.items()}
    assert alone["output"].digest == together["output"].digest


def test_a_dropped_record_names_who_stays_and_how_alike_they_are(steps):
    made = steps("deduplicate", corpus=steps.corpus(documents(200, 3, "2023-06")))["output"]
    kept, dropped = steps.ids(made), steps.records(made, aside=True)
    assert len(kept) + len(dropped) == 200
    for record in dropped:
        why = record["dropped"]
        assert record["survivor"] in kept and why["threshold"] == 0.7
        assert (why["reason"] == "exact_duplicate") == (why["value"] == 1.0)


def test_a_new_dump_beside_the_index_without_the_old_text(steps):
    old = documents(200, 4, "2023-06")
    first = steps("deduplicate", corpus=steps.corpus(old))
    assert steps.store.get_manifest(first["index"].digest).counts["records"] == first["output"].counts["records"]
    new = documents(150, 5, "2023-40", like=old)
    backfill = documents(50, 6, "2022-05", like=old)
    added = steps("deduplicate", corpus=steps.corpus([*new, *backfill]), index=[first["index"]])

    kept, superseded = steps.ids(added["output"]), {r["id"]: r for r in steps.records(added["superseded"])}
    was = steps.ids(first["output"])
    assert superseded and superseded.keys() <= was  # the newer dump stays, and the older one's place is told
    assert {r["survivor"] for r in superseded.values()} <= kept
    dropped = {r["id"]: r["survivor"] for r in steps.records(added["output"], aside=True)}
    older = {r["id"] for r in backfill}
    assert any(gone in older and survivor in was for gone, survivor in dropped.items())
    assert not any(gone not in older and survivor in was for gone, survivor in dropped.items())
    # a third time: what is in the index by now is known, and what is not is not
    index = added["index"]
    assert index.counts["records"] == len(was) - len(superseded) + len(kept)
    again = steps("deduplicate", corpus=steps.corpus([r for r in new if r["id"] in kept][:30]), index=[index])
    assert again["output"].counts == {"in": 30, "records": 0, "dropped": 30, "rejected": 0}
    assert (
        steps("deduplicate", corpus=steps.corpus(documents(30, 99, "2024-10")), index=[index])["output"].counts[
            "records"
        ]
        > 15
    )


def test_two_indexes_are_one(steps):
    a, b = documents(60, 7, "2023-06"), documents(60, 8, "2023-14")
    indexes = [steps("fingerprint", corpus=steps.corpus(r))["output"] for r in (a, b)]  # shards of the same names
    new = steps.corpus(documents(60, 9, "2023-06", like=[*a, *b]))
    made = [steps("deduplicate", corpus=new, index=order) for order in (indexes, indexes[::-1])]
    assert made[0]["output"].content == made[1]["output"].content
    assert made[0]["index"].content == made[1]["index"].content
    names = [s.name for s in made[0]["index"].shards]
    assert len(names) == len(set(names))


def test_what_does_not_fit_together_is_one_clear_line(steps):
    corpus, other = (steps.corpus(documents(n, n, "2023-06")) for n in (50, 90))
    prints = [steps("fingerprint", corpus=corpus)["output"]]
    pairs = [steps("exchange", fingerprints=prints)["output"]]
    more = [steps("fingerprint", corpus=other)["output"]]
    with pytest.raises(InputError, match="pairs .* are of 50 documents, the fingerprints and the index of 90"):
        steps("cluster", fingerprints=more, pairs=pairs, corpus=other)
    with pytest.raises(InputError, match="they are another corpus's"):
        steps(
            "cluster",
            fingerprints=more,
            pairs=[steps("exchange", fingerprints=more)["output"]],
            corpus=steps.corpus(documents(10, 1, "x")),
        )
    with pytest.raises(InputError, match="cannot be compared"):
        steps("deduplicate", {"ngram": 4}, corpus=corpus, index=prints)
    groups = steps("plan", {"group_bytes": max(s.size for s in other.shards)}, whole=other)
    some = [steps("fingerprint", corpus=groups["group-00000"])["output"]]
    with pytest.raises(
        InputError, match="no fingerprints of type=web/lang=en/part-00001.jsonl.zst: a group of the corpus is missing"
    ):
        steps("cluster", fingerprints=some, pairs=[steps("exchange", fingerprints=some)["output"]], corpus=other)
    with pytest.raises(InputError, match="the parts are of 40 records, the corpus has 90: a group is missing"):
        steps("gather", parts=some, whole=other)
    with pytest.raises(InputError, match="is in two of the parts"):
        steps("gather", parts=[*some, *some])
    with pytest.raises(ConfigError, match=r"part 2 of the bands: there are 1 \(0 to 0\) for 50 documents"):
        steps("exchange", {"part": 2}, fingerprints=prints)
    with pytest.raises(ConfigError, match="24 bands do not divide 128 permutations"):
        steps("deduplicate", {"bands": 24}, corpus=corpus)


def test_the_options_of_the_parts_are_those_of_the_whole():
    parts = set().union(*(find(f"curation.{s}").config.model_fields for s in ("fingerprint", "exchange", "cluster")))
    assert parts - {"part"} == set(DeduplicateConfig.model_fields) - {"group_records"}


# --- lines that a site puts on many pages ----------------------------------------------------------------------------

MENU, NOTICE, QUOTED = (
    "Home | About us | Contact the editors",
    "All rights reserved by the publisher.",
    "To be, or not to be",
)


def page(n: int, host: str, lines: list[str], kind: str = "web") -> dict:
    url = {"url": f"https://{host}/{n}"} if host else {}
    return {"id": f"{n:016x}", "text": "\n".join(lines), "type": kind, "lang": "en", "source": "crawl"} | url


def pages() -> list[dict]:
    rng = random.Random(3)

    def own() -> str:
        return f"This page tells of {rng.getrandbits(40):x} and nothing else."

    site = [page(n, "a.example", [MENU, "", own(), "---", "  " + NOTICE + " ", own()]) for n in range(6)]
    others = [page(10 + n, f"b{n}.example", [QUOTED, own()]) for n in range(8)]
    repeated = page(20, "c.example", [own()] + ["Read more about this story"] * 9)
    code = [page(30 + n, "", ["from __future__ import annotations", own()], "code") for n in range(6)]
    only = page(40, "a.example", [MENU, NOTICE])
    return [*site, *others, repeated, *code, only]


@pytest.mark.parametrize("at_once", [1, 4_000_000])
def test_lines_of_many_pages_of_one_site_go_and_nothing_else(steps, monkeypatch, at_once):
    monkeypatch.setattr("tokenmill.curation.boilerplate.MERGED_AT_ONCE", at_once)
    records = pages()
    made = steps("strip_boilerplate", {"max_documents": 3}, corpus=steps.corpus(records, per_shard=4))["output"]
    kept = {r["id"]: r for r in steps.records(made)}
    assert made.dropped == {"only_boilerplate": 1}
    for before in records[:-1]:
        after = kept[before["id"]]
        expected = [line for line in before["text"].split("\n") if line.strip() not in (MENU, NOTICE)]
        assert after["text"] == "\n".join(expected).strip("\n")
        assert after.get("stripped_lines", 0) == before["text"].count(MENU) + before["text"].count(NOTICE)
        assert (after == before) == ("stripped_lines" not in after)


def in_groups(steps, corpus: Manifest, cuts: list[int], settings: dict) -> tuple[Manifest, Manifest]:
    """What is boilerplate, and the stripped corpus, by tasks over groups of shards that end at `cuts`."""
    groups = []
    for start, end in itertools.pairwise([0, *cuts, len(corpus.shards)]):
        shards = corpus.shards[start:end]
        draft = Draft(kind="corpus", shards=shards, counts={"records": sum(s.records for s in shards)})
        groups.append(Manifest.issue(draft, parents={}, step="test", version=1, config={}))
        steps.store.put_manifest(groups[-1])
    lines = [steps("count_lines", settings, corpus=group)["output"] for group in groups]
    found = steps("find_boilerplate", settings, lines=lines[::-1])["output"]
    parts = [steps("strip_boilerplate", settings, corpus=group, boilerplate=found)["output"] for group in groups]
    return found, steps("gather", parts=parts[::-1], whole=corpus)["output"]


@pytest.mark.usefixtures("workers_at_once")
def test_boilerplate_is_the_same_of_one_two_and_five_groups_and_of_two_workers(steps, monkeypatch):
    monkeypatch.setattr("tokenmill.curation.boilerplate.MERGED_AT_ONCE", 7)
    corpus, settings = steps.corpus(pages(), per_shard=4), {"max_documents": 3}
    whole = steps("strip_boilerplate", settings, corpus=corpus)["output"]
    steps.workers = 2
    for cuts in ([], [2], [1, 2, 3, 5]):
        found, made = in_groups(steps, corpus, cuts, settings)
        assert found.counts == {"records": 2, "times": 14}  # the menu and the notice, 7 times each
        assert (made.content, made.counts, made.dropped) == (whole.content, whole.counts, whole.dropped)
        assert {(s.name, s.content) for s in made.aside} == {(s.name, s.content) for s in whole.aside}


def test_lines_are_added_up_a_range_of_hashes_at_a_time(monkeypatch):
    monkeypatch.setattr(boilerplate, "MERGED_AT_ONCE", 1_000)
    draw = np.random.default_rng(5)
    known = np.unique(draw.integers(0, 2**64, 2_000, np.uint64))
    files = []
    for _ in range(6):
        chosen = np.sort(draw.choice(known, 1_500, replace=False))
        files.append(np.array([(line, 1, int(line % 3) + 1) for line in chosen.tolist()], boilerplate.LINE))
    expected = Counter(line for file in files for line in file["line"].tolist())
    ranges = list(boilerplate._added_up(files))
    assert len(ranges) == 9 and max(map(len, ranges)) < 300  # 9,000 rows: a ninth of 2,000 lines each
    rows = np.concatenate(ranges)
    assert rows["line"].tolist() == sorted(expected)
    assert dict(zip(rows["line"].tolist(), rows["documents"].tolist(), strict=True)) == expected
    assert all(times == documents * (line % 3 + 1) for line, documents, times in rows.tolist())


def test_a_worker_uses_what_goes_where_it_lies(steps):
    found, _ = in_groups(steps, steps.corpus(pages(), per_shard=4), [2], {"max_documents": 3})
    lines = boilerplate._lines(steps.store.uri, found.shards[0].blob)
    assert len(lines) == 2 and isinstance(lines.base, np.memmap) and found.shards[0].size == 16


def test_a_line_must_stand_in_more_documents_than_the_limit_and_off_is_off(steps):
    corpus = steps.corpus(pages(), per_shard=4)
    assert steps("strip_boilerplate", {"max_documents": 7}, corpus=corpus)["output"].content == corpus.content
    assert steps("strip_boilerplate", {"max_documents": 6}, corpus=corpus)["output"].content != corpus.content
    found, made = in_groups(steps, corpus, [2], {})
    assert made.content == corpus.content and found.counts["records"] == 0
    assert steps("strip_boilerplate", corpus=corpus)["output"].content == corpus.content
