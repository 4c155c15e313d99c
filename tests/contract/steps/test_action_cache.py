"""Resume is rerun: what is computed once is found again, and lineage is issued anew every time."""

import threading

import pytest

from tokenmill import records
from tokenmill.config import Execution, StepConfig
from tokenmill.environment import read_environment
from tokenmill.errors import ConfigError, CorruptError, InputError, StoreError
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import Drop, Keep, Reject, effect, run_step, runner, step
from tokenmill.steps.runner import lookup
from tokenmill.store import open_store
from tokenmill.tracking import RunRef, read_events

CALLS: list[str] = []


class Empty(StepConfig):
    pass


class Scale(StepConfig):
    factor: int = 2


class Sources(StepConfig):
    licence: str = "MIT"
    rows: int = 4


@effect("toy.register", version=1)
def register(config: Sources, ctx) -> Draft:
    CALLS.append("register")
    rows = [{"id": f"d{i}", "value": i} for i in range(config.rows)]
    shards = {f"part-{i:05d}.jsonl.zst": rows[i::2] for i in range(2)}
    return ctx.write_records("sources", shards, facts={"sources": {"toy": {"licence": config.licence}}})


@step("toy.scale", version=1, kinds={"corpus": ("sources", "corpus")})
def scale(config: Scale, corpus: Manifest, ctx) -> Draft:
    CALLS.append("scale")
    return ctx.map_shards(corpus, Times(config.factor))


@step("toy.join", version=1)
def join(config: Empty, corpus: Manifest, more: list[Manifest] | None, ctx) -> Draft:
    CALLS.append("join")
    rows = [record for manifest in (corpus, *(more or ())) for record in ctx.records(manifest)]
    return ctx.write_records("corpus", {"part-00000.jsonl.zst": rows})


class Times:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, record):
        return record | {"value": record["value"] * self.factor}


@step("toy.sift", version=1)
def sift(config: Empty, corpus: Manifest, ctx) -> Draft:
    return ctx.map_shards(corpus, keep_even, max_rejected=0.25)


def keep_even(record):
    if record["value"] == 3:
        return Reject("has no text (value 3)", f"record {record['id']}")
    return Keep(record) if record["value"] % 2 == 0 else Drop("odd", record, record["value"], 0)


@step("toy.regroup", version=1)
def regroup(config: Empty, corpus: Manifest, ctx) -> Draft:
    outcomes = (keep_even(record) for record in ctx.records(corpus))
    return ctx.partition(outcomes, by=lambda record: "all", max_rejected=0.25)


@effect("toy.choose", version=1)
def choose(config: Empty, corpus: Manifest, other: Manifest, ctx) -> dict[str, Draft]:
    best = max(corpus, other, key=lambda manifest: manifest.counts["records"])
    return {"output": best, "told": ctx.write_json("decision", "why.json", {"chose": best.digest})}


@pytest.fixture
def store(tmp_path):
    CALLS.clear()
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def run():
    return RunRef.new("test", "pico")


def go(name, config, store, run, **inputs):
    return run_step(name, config, inputs, store=store, run=run)["output"]


def test_equal_bytes_under_two_licences_share_the_work_and_keep_two_lineages(store, run):
    free = go("toy.register", Sources(licence="MIT"), store, run)
    bound = go("toy.register", Sources(licence="GPL-3.0"), store, run)
    first, second = (go("toy.scale", Scale(), store, run, corpus=source) for source in (free, bound))
    assert CALLS == ["register", "register", "scale"]
    assert first.content == second.content and first.digest != second.digest
    assert (first.parents, second.parents) == ({"corpus": (free.digest,)}, {"corpus": (bound.digest,)})


def test_a_second_run_hits_and_issues_the_same_digests(store, run):
    def both():
        return go("toy.scale", Scale(), store, run, corpus=go("toy.register", Sources(), store, run))

    assert both().digest == both().digest
    assert CALLS.count("scale") == 1


def test_what_an_effect_chooses_is_the_very_artifact_with_its_own_lineage(store, run):
    few, many = (go("toy.register", Sources(rows=rows), store, run) for rows in (2, 6))
    made = run_step("toy.choose", Empty(), {"corpus": few, "other": many}, store=store, run=run)
    assert made["output"].digest == many.digest
    assert made["told"].parents == {"corpus": (few.digest,), "other": (many.digest,)}
    assert store.children(few.digest) == [made["told"].digest]


def test_identity_changes_the_key_and_execution_does_not(store, run):
    source = go("toy.register", Sources(), store, run)
    go("toy.scale", Scale(), store, run, corpus=source)
    go("toy.scale", Scale(execution=Execution(workers=1)), store, run, corpus=source)
    assert CALLS.count("scale") == 1
    go("toy.scale", Scale(factor=3), store, run, corpus=source)
    assert CALLS.count("scale") == 2


def test_a_set_of_no_records_is_the_same_work_as_none_and_another_lineage(store, run):
    source, nothing = (go("toy.register", Sources(rows=rows), store, run) for rows in (4, 0))
    alone = go("toy.join", Empty(), store, run, corpus=source)
    with_nothing = go("toy.join", Empty(), store, run, corpus=source, more=[nothing])
    assert CALLS.count("join") == 1 and with_nothing.content == alone.content
    assert "more" not in alone.parents and with_nothing.parents["more"] == (nothing.digest,)
    go("toy.join", Empty(), store, run, corpus=source, more=[nothing, source])
    assert CALLS.count("join") == 2
    go("toy.join", Empty(), store, run, corpus=nothing)  # what is required counts, empty or not
    assert CALLS.count("join") == 3


def test_an_edit_that_changes_no_bytes_stops_there(store, run):
    source = go("toy.register", Sources(), store, run)
    same = go("toy.scale", Scale(factor=1), store, run, corpus=source)
    assert [s.content for s in same.shards] == [s.content for s in source.shards]
    once = go("toy.sift", Empty(), store, run, corpus=same)
    again = go("toy.sift", Empty(), store, run, corpus=go("toy.scale", Scale(factor=1), store, run, corpus=same))
    assert once.content == again.content


def test_every_record_is_kept_dropped_or_rejected_with_its_reason(store, run):
    sifted = go("toy.sift", Empty(), store, run, corpus=go("toy.register", Sources(rows=8), store, run))
    assert sifted.counts == {"in": 8, "records": 4, "dropped": 3, "rejected": 1}
    assert sifted.dropped == {"odd": 3, "rejected:has no text": 1}
    assert {shard.name.partition("/")[0] for shard in sifted.aside} == {"dropped", "rejected"}


def test_too_many_rejected_records_stop_the_step_with_one_line(store, run):
    with pytest.raises(InputError, match=r"record d3: has no text \(value 3\)\. 1 of 3 records set aside.*above 25%"):
        source = Sources(rows=4)
        registered = go("toy.register", source, store, run)
        go("toy.sift", Empty(), store, run, corpus=_without_first(registered, store, run))


def _without_first(manifest, store, run):
    rows = [r for r in _rows(manifest, store) if r["id"] != "d0"]

    @effect("toy.three", version=1)
    def three(config: Empty, ctx) -> Draft:
        return ctx.write_records("sources", {"part-00000.jsonl.zst": rows})

    return go("toy.three", Empty(), store, run)


def _rows(manifest, store):
    from tokenmill.records import read_jsonl

    return [row for shard in manifest.shards for row in read_jsonl(store.blob_path(shard.blob))]


def test_a_lost_blob_makes_a_miss_and_the_work_is_done_again(store, run):
    source = go("toy.register", Sources(), store, run)
    scaled = go("toy.scale", Scale(), store, run, corpus=source)
    (store.backend.path(f"blobs/{scaled.shards[0].blob[:2]}/{scaled.shards[0].blob}")).unlink()
    assert go("toy.scale", Scale(), store, run, corpus=source).digest == scaled.digest
    assert CALLS.count("scale") == 2


def test_a_corrupt_shard_is_named_and_nothing_is_published(store, run):
    source = go("toy.register", Sources(), store, run)
    path = store.backend.path(f"blobs/{source.shards[0].blob[:2]}/{source.shards[0].blob}")
    path.chmod(0o644)
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(CorruptError, match=source.shards[0].blob[:8]):
        run_step(
            "toy.scale", Scale(execution=Execution(workers=1)), {"corpus": source}, store=open_store(store.uri), run=run
        )
    assert not list(store.backend.list("actions/"))


def test_concurrent_callers_do_the_work_once(store, run):
    source = go("toy.register", Sources(), store, run)
    digests = []
    threads = [
        threading.Thread(
            target=lambda: digests.append(go("toy.scale", Scale(factor=5), store, run, corpus=source).digest)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 4 and len(set(digests)) == 1 and CALLS.count("scale") == 1


@pytest.mark.parametrize(("made", "found"), [("builder:1", "clean:2"), ("", "clean:2"), ("builder:1", "")])
def test_what_is_found_done_stands_under_the_environment_that_did_it(store, run, monkeypatch, made, found):
    """Else a rerun in a clean image would hide from the bill of materials what was made in another one."""
    sources = [go("toy.register", Sources(licence=licence), store, run) for licence in ("MIT", "CC0-1.0")]
    results = []
    for image, source in zip((made, found), sources, strict=True):
        monkeypatch.setenv("TOKENMILL_IMAGE", image)
        results.append(go("toy.scale", Scale(), store, run, corpus=source).observed)
    monkeypatch.undo()
    first, second = results
    assert CALLS.count("scale") == 1
    assert second["environment"] == first["environment"] and second.get("image", "") == first.get("image", "") == made
    assert read_environment(store, second["environment"]).image == made


def test_finished_work_leaves_no_scratch_behind(store, run):
    from tokenmill.steps import action_key, find

    source = go("toy.register", Sources(), store, run)
    go("toy.scale", Scale(), store, run, corpus=source)
    key = action_key(find("toy.scale"), Scale(), {"corpus": [source]})
    assert lookup(store, key)
    assert [e.key for e in store.backend.list(f"work/{key}/") if "/lease/" not in e.key] == []


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'corpus' is missing"),
        ({"corpus": "two"}, "takes one artifact, got 2"),
        ({"corpora": None}, "toy.scale takes"),
        ({"corpus": "tokens"}, "must be sources or corpus"),
    ],
)
def test_wrong_inputs_are_refused_before_any_work(store, run, inputs, message):
    source = go("toy.register", Sources(), store, run)
    other = Manifest.issue(Draft(kind="tokens", shards=source.shards), parents={}, step="x.y", version=1, config={})
    known = {"two": [source, source], "tokens": other, None: source}
    with pytest.raises((InputError, ConfigError), match=message):
        run_step("toy.scale", Scale(), {r: known[m] for r, m in inputs.items()}, store=store, run=run)
    assert "scale" not in CALLS


def test_events_tell_what_happened(store, run):
    source = go("toy.register", Sources(), store, run)
    go("toy.scale", Scale(), store, run, corpus=source)
    go("toy.scale", Scale(), store, run, corpus=source)
    finished = [e.data for e in read_events(store, run.key) if e.kind == "step_finished"]
    assert [f["cache"] for f in finished] == ["effect", "miss", "hit"]
    assert finished[1]["outputs"]["output"]["digest"] == finished[2]["outputs"]["output"]["digest"]


@pytest.mark.parametrize("name", ["toy.sift", "toy.regroup"])
def test_a_record_that_is_lost_on_the_way_to_its_shard_stops_the_step(store, run, monkeypatch, name):
    corpus = go("toy.register", Sources(), store, run)
    monkeypatch.setattr(records.LineWriter, "write", lambda lines, line: None)
    with pytest.raises(AssertionError, match="records in, but"):
        go(name, Empty(execution=Execution(workers=1)), store, run, corpus=corpus)


def test_a_store_that_cannot_hold_a_result_is_refused_before_any_work(store, run, monkeypatch):
    corpus = go("toy.register", Sources(), store, run)

    def overwrite(key, data):
        store.backend.put(key, data)
        return True

    monkeypatch.setattr(store.backend, "create", overwrite)
    with pytest.raises(StoreError, match="overwrites what exists"):
        go("toy.scale", Scale(), store, run, corpus=corpus)
    assert "scale" not in CALLS


def test_a_result_that_vanished_while_it_was_waited_for_is_no_hit_without_outputs(store, run, monkeypatch):
    corpus = go("toy.register", Sources(), store, run)
    monkeypatch.setattr(runner, "acquire", lambda *args, **options: None)  # another attempt had published
    with pytest.raises(StoreError, match="run it again"):
        go("toy.scale", Scale(), store, run, corpus=corpus)
