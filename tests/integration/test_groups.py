"""The phase curation in a KFP loop over groups of shards makes what it makes in one piece."""

from importlib import resources

import orjson
import pytest
from life import Life, Lived

from tokenmill.lineage import upstream
from tokenmill.records import read_jsonl

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def corpus(lived: Lived) -> dict[str, dict]:
    """Id → record of the corpus that the run ends with."""
    shards = lived.manifest("curation.order_code").shards
    return {r["id"]: r for s in shards for r in read_jsonl(lived.life.store.blob_path(s.blob))}


@pytest.fixture(scope="module")
def life(tmp_path_factory) -> Life:
    return Life(tmp_path_factory.mktemp("groups"), "pico", {})


@pytest.fixture(scope="module")
def whole(life) -> Lived:
    return life.run("curation")


@pytest.fixture(scope="module")
def grouped(life, whole) -> Lived:
    return life.run("curation", "--set", "curation.plan.group_bytes=40000")


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


def test_a_group_whose_files_did_not_change_is_found_done(life, grouped):
    again = life.run("curation", "--set", "curation.plan.group_bytes=40000")
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


def test_a_group_of_which_nothing_is_left_costs_the_others_nothing(life):
    folder = life.folder / "mixed"
    folder.mkdir()
    pages = resources.files("tokenmill.curation") / "sources" / "pico" / "pages.jsonl"
    (folder / "good.jsonl").write_bytes(pages.read_bytes())
    (folder / "junk.jsonl").write_text("".join(f'{{"text": "too short {n}", "lang": "en"}}\n' for n in range(20)))
    source = f"{{name: mixed, uri: {folder}, type: web, licence: CC0-1.0, origin: test}}"
    settings = (f"curation.register_sources.sources=[{source}]", "curation.plan.group_bytes=1")
    mixed = life.run("curation", *(option for setting in settings for option in ("--set", setting)))

    cleaned = [mixed.manifest(task) for task in mixed.finished if task.startswith("curation.filter.group-")]
    assert [m.dropped for m in cleaned if not m.counts["records"]] == [{"length": 20}]
    assert corpus(mixed) and all(r["path"] == "good.jsonl" for r in corpus(mixed).values())
    assert mixed.manifest("curation.funnel").counts["stages"] == 8
