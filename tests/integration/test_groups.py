"""The phase curation in a KFP loop over groups of shards makes what it makes in one piece."""

from pathlib import Path

import orjson
import pytest
from life import Life, Lived
from planted_sources import pico_and

from tokenmill.lineage import upstream
from tokenmill.records import read_jsonl

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
SHORT = 2000


def corpus(lived: Lived) -> dict[str, dict]:
    """Id → record of the corpus that the run ends with."""
    shards = lived.manifest("curation.order_code").shards
    return {r["id"]: r for s in shards for r in read_jsonl(lived.life.store.blob_path(s.blob))}


@pytest.fixture(scope="module")
def life(tmp_path_factory) -> Life:
    return Life(tmp_path_factory.mktemp("groups"), "pico", {})


@pytest.fixture(scope="module")
def sources(life) -> Path:
    """Pico's, and one of lines too short to keep, which is larger than a group: of that group nothing is left."""
    lines = "".join(f'{{"text": "too short {n}", "lang": "en"}}\n' for n in range(SHORT))
    return pico_and(life.folder, "scraps", lines, type="web")


@pytest.fixture(scope="module")
def whole(life, sources) -> Lived:
    return life.run("curation", "--set", f"curation.register_sources.sources={sources}")


def in_groups(life, sources) -> Lived:
    settings = (f"curation.register_sources.sources={sources}", "curation.plan.group_bytes=70000")
    return life.run("curation", *(option for setting in settings for option in ("--set", setting)))


@pytest.fixture(scope="module")
def grouped(life, sources, whole) -> Lived:
    return in_groups(life, sources)


def test_a_corpus_in_groups_is_the_same_corpus(whole, grouped):
    groups = [task for task in grouped.finished if task.startswith("curation.ingest.group-")]
    assert len(groups) > 2
    assert corpus(grouped) == corpus(whole)


def test_drops_and_counts_of_the_groups_add_up_to_the_whole(whole, grouped):
    for step in ("ingest", "filter", "score", "screen", "grade"):
        parts = [grouped.manifest(t) for t in grouped.finished if t.startswith(f"curation.{step}.group-")]
        name = f"curation.{step}"
        assert sum(p.counts["in"] for p in parts) == whole.manifest(name).counts["in"]
        dropped: dict[str, int] = {}
        for part in parts:
            for reason, n in part.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + n
        assert dropped == whole.manifest(name).dropped


def test_every_group_ends_at_the_same_registered_sources(grouped):
    registered = grouped.manifest("curation.register_sources")
    graph = upstream(grouped.life.store, grouped.manifest("curation.order_code").digest)
    assert {source.digest for source in graph.sources} == {registered.digest}


def test_a_group_whose_files_did_not_change_is_found_done(life, sources, grouped):
    again = in_groups(life, sources)
    tasks = {t: f["cache"] for t, f in again.finished.items() if ".group-" in t}
    assert tasks and set(tasks.values()) == {"hit"}
    assert again.finished["curation.order_code"]["outputs"] == grouped.finished["curation.order_code"]["outputs"]


def test_a_document_s_history_names_its_own_group_and_no_other(life, grouped):
    document = next(i for i, r in sorted(corpus(grouped).items()) if r["type"] == "book")
    told = life.tokenmill("curation", "explain", document, "--run", grouped.summary["run"], "--json")
    stages = [(stage["step"], stage["fate"]) for stage in orjson.loads(told.stdout)["stages"]]
    steps = ("ingest", "filter", "deduplicate", "score", "screen", "grade", "tier_code", "order_code")
    assert [step for step, _ in stages] == [f"curation.{step}" for step in steps]
    assert "absent" not in {fate for _, fate in stages}


def test_a_group_of_which_nothing_is_left_costs_the_others_nothing(grouped):
    cleaned = [grouped.manifest(task) for task in grouped.finished if task.startswith("curation.filter.group-")]
    assert [m.dropped for m in cleaned if not m.counts["records"]] == [{"length": SHORT}]
    assert corpus(grouped) and all(r["source"] != "scraps" for r in corpus(grouped).values())
    assert grouped.manifest("curation.funnel").counts["stages"] == 8
