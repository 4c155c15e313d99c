"""The funnel: planted violations stop it, its numbers are recounted here, and what documents say is never HTML."""

import random
import statistics as oracle
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from planted_run import PlantedRun

from tokenmill.curation.config import FunnelConfig
from tokenmill.curation.distributions import histogram
from tokenmill.curation.funnel_page import percent, size
from tokenmill.curation.statistics import SHAPES, Shape, statistics
from tokenmill.curation.survey import around
from tokenmill.errors import CorruptError, InputError
from tokenmill.manifest import Manifest
from tokenmill.steps import run_step
from tokenmill.store import ArtifactStore, open_store
from tokenmill.tracking import RunRef

Record = dict[str, Any]
RUN = RunRef(key="one", name="one")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store((tmp_path / "store").as_uri())


class Chain:
    """Stages as steps would leave them, and a funnel of them."""

    def __init__(self, store: ArtifactStore, folder: Path):
        self.store, self.life = store, PlantedRun(store, folder, RUN)

    def stage(
        self, step: str, kept: list[Record], gone: list[Record] = [], rejected: list[Record] = [], **changed: Any
    ) -> Manifest:
        """A step's corpus in shards of forty; `changed` plants what is not so."""
        shards = {f"type=web/part-{i // 40:05d}.jsonl.zst": kept[i : i + 40] for i in range(0, len(kept), 40)}
        aside = {f"{name}/part.jsonl.zst": rows for name, rows in (("dropped", gone), ("rejected", rejected)) if rows}
        reasons = Counter(r["dropped"]["reason"] for r in gone)
        reasons.update(f"rejected:{r['reason'].partition(' (')[0]}" for r in rejected)
        counts = {"in": len(kept) + len(gone) + len(rejected), "records": len(kept), "rejected": len(rejected)}
        fields = {"counts": counts | changed.pop("counts", {}), "dropped": dict(reasons)} | changed
        aside_shards = self.life.draft("corpus", aside).shards if aside else ()
        draft = self.life.draft("corpus", shards, aside=aside_shards, **fields)
        return self.life.step(step, {"output": draft}, task=f"{step}.{len(kept)}")["output"]

    def funnel(self, *stages: Manifest, **config: Any) -> tuple[Any, str]:
        output = run_step(
            "curation.funnel", FunnelConfig(**config), {"stages": list(stages)}, store=self.store, run=RUN
        )
        data, page = (self.store.get_blob(output["output"].shard(f"funnel.{kind}").blob) for kind in ("json", "html"))
        return orjson.loads(data), page.decode()


@pytest.fixture
def chain(store: ArtifactStore, tmp_path: Path) -> Chain:
    return Chain(store, tmp_path)


def record(number: int, text: str = "The sea rises, and it falls.", **more: Any) -> Record:
    return {
        "id": f"{number:016x}",
        "text": text,
        "type": "web",
        "lang": "en",
        "source": "s",
        "path": f"{number}",
    } | more


def gone(one: Record, reason: str = "length", value: Any = 3, threshold: Any = "≥ 50") -> Record:
    return one | {"dropped": {"reason": reason, "value": value, "threshold": threshold}}


def rows(first: int, count: int) -> list[Record]:
    return [record(n) for n in range(first, first + count)]


# --- conservation ----------------------------------------------------------------------------------------------------


def test_a_chain_that_adds_up_is_told_stage_by_stage(chain: Chain) -> None:
    raw = chain.stage("curation.ingest", rows(0, 20), rejected=[{"reason": "not JSON (eof)", "where": "a line 3"}])
    clean = chain.stage("curation.filter", rows(0, 15), [gone(r) for r in rows(15, 5)])
    told, page = chain.funnel(raw, clean)
    assert [(s["in"], s["kept"], s["rejected"], s["dropped"]) for s in told["stages"]] == [
        (21, 20, 1, {"rejected:not JSON": 1}),
        (20, 15, 0, {"length": 5}),
    ]
    assert "15 of 21 raw documents are in the corpus: 71.4%" in page


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        ({"counts": {"in": 21}}, r"filter.* read 21 documents, but 15 kept \+ 5 dropped .*= 20; 1 are unaccounted"),
        ({"counts": {"records": 16, "in": 21}}, r"says it kept 16 documents, but its shards hold 15"),
        ({"counts": {"in": 21}, "dropped": {"length": 6}}, r"says it dropped 6 for 'length', but 5 were set aside"),
        ({"dropped": {"length": 4, "symbols": 1}}, r"says it dropped 4 for 'length', but 5 were set aside"),
    ],
)  # fmt: skip
def test_a_planted_violation_stops_the_step_and_says_where(chain: Chain, planted: Any, told: str) -> None:
    raw = chain.stage("curation.ingest", rows(0, 20 if planted.get("counts", {}).get("in") != 21 else 21))
    clean = chain.stage("curation.filter", rows(0, 15), [gone(r) for r in rows(15, 5)], **planted)
    with pytest.raises(CorruptError, match=told):
        chain.funnel(raw, clean)


def test_a_document_lost_between_two_stages_stops_the_step(chain: Chain) -> None:
    raw = chain.stage("curation.ingest", rows(0, 20))
    clean = chain.stage("curation.filter", rows(0, 19))
    with pytest.raises(CorruptError, match=r"curation\.ingest kept 20 documents, but curation\.filter .* read 19"):
        chain.funnel(raw, clean)


def test_a_drop_without_a_reason_stops_the_step(chain: Chain) -> None:
    raw = chain.stage("curation.ingest", rows(0, 3), [gone(record(9), reason="")])
    with pytest.raises(CorruptError, match="dropped documents without a reason"):
        chain.funnel(raw)


def test_files_that_are_joined_are_no_loss_and_a_file_that_is_not_in_any_document_is(chain: Chain) -> None:
    def repository(n_files: int) -> Record:
        return record(99, type="code", lang="python", files=[{"id": str(n), "path": str(n)} for n in range(n_files)])

    raw = chain.stage("curation.grade", [record(n, type="code", lang="python") for n in range(8)] + rows(50, 2))
    joins = {"in": 10, "code_files": 8}
    whole = chain.stage("curation.order_code", [repository(8), *rows(50, 2)], counts=joins)
    told, page = chain.funnel(raw, whole)
    assert [(s["in"], s["kept"], s["joined"]) for s in told["stages"]] == [(10, 10, 0), (10, 3, 7)]
    assert "10 of 10 raw documents are in the corpus: 100%" in page and "Nothing was lost" in page
    torn = chain.stage("curation.order_code", [repository(7), *rows(50, 2)], counts=joins)
    with pytest.raises(CorruptError, match="1 are unaccounted for"):
        chain.funnel(raw, torn)


def test_corpora_of_one_step_are_one_stage_and_a_merge_is_none(chain: Chain) -> None:
    raw = chain.stage("curation.ingest", rows(0, 20))
    groups = [
        chain.stage("curation.filter", rows(0, 9), [gone(record(18))]),
        chain.stage("curation.filter", rows(9, 8), [gone(r) for r in (record(17), record(19))]),
    ]
    merged = chain.stage("curation.merge", rows(0, 17))
    told, _ = chain.funnel(raw, *groups, merged)
    assert [(s["step"], s["in"], s["kept"]) for s in told["stages"]] == [
        ("curation.ingest", 20, 20), ("curation.filter", 20, 17),
    ]  # fmt: skip
    with pytest.raises(InputError, match="a merged corpus alone is no stage"):
        chain.funnel(merged)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_documents_and_bytes_agree_with_a_recount_by_type_language_and_reason(chain: Chain) -> None:
    rng = random.Random(3)
    texts = ("Tide. ", "潮水每天涨落两次。", "def f(): pass\n")
    everything = [
        record(n, rng.choice(texts) * rng.randint(1, 9), type=kind, lang=lang)
        for n in range(60)
        for kind, lang in [rng.choice([("web", "en"), ("web", "zh"), ("book", "zh"), ("code", "python")])]
    ]
    dropped = [gone(r, rng.choice(["length", "symbols", "han_share"])) for r in everything[40:]]
    told, _ = chain.funnel(
        chain.stage("curation.ingest", everything), chain.stage("curation.filter", everything[:40], dropped)
    )
    clean = told["stages"][1]
    for kind, lang in {(r["type"], r["lang"]) for r in everything}:
        for side, held in (("kept", everything[:40]), ("dropped", dropped)):
            mine = [r for r in held if (r["type"], r["lang"]) == (kind, lang)]
            assert clean["partitions"][f"{kind}/{lang}"][side] == {
                "documents": len(mine), "bytes": sum(len(r["text"].encode()) for r in mine),
            }  # fmt: skip
    for told_reason in clean["reasons"]:
        mine = [r for r in dropped if r["dropped"]["reason"] == told_reason["reason"]]
        assert told_reason["documents"] == len(mine) == sum(told_reason["partitions"].values())
        assert told_reason["bytes"] == sum(len(r["text"].encode()) for r in mine)
        assert told_reason["share"] == pytest.approx(len(mine) / 60)
    assert {r["reason"]: r["documents"] for r in clean["reasons"]} == clean["dropped"]
    assert clean["bytes"]["in"] == clean["bytes"]["kept"] + clean["bytes"]["dropped"]


def test_the_nine_statistics_of_a_text_counted_by_hand() -> None:
    text = "The cat sat on the mat.\n\nIt was #1, the 2nd cat…\n"
    told = statistics(text, "en")
    letters = sum(c.isalpha() for c in text)
    assert told.characters == len(text) == 49 and told.lines == 2 and told.sentences == 2
    assert told.words == 12  # the cat sat on the mat it was 1 the 2nd cat
    assert told.unique_words == 9 / 12 and told.stop_words == 6 / 12  # the on the it was the
    assert told.symbols == 2 / 12  # a '#' and an ellipsis
    assert told.mean_word_length == 36 / 12 and told.non_alphabetic == pytest.approx(1 - letters / 49)


def test_chinese_has_no_mean_word_length_and_counts_characters() -> None:
    told = statistics("潮水每天涨落两次。", "zh")
    assert told.words == 9 and told.sentences == 1
    assert told.mean_word_length is None and told.stop_words is None


def test_histograms_hold_every_document_of_the_sample_and_medians_are_medians(chain: Chain) -> None:
    rng = random.Random(5)
    everything = [
        record(n, " ".join(rng.choices(("tide", "of", "the", "sea"), k=rng.randint(5, 400)))) for n in range(80)
    ]
    kept = [r for r in everything if len(r["text"].split()) > 100]
    dropped = [gone(r) for r in everything if r not in kept]
    told, page = chain.funnel(chain.stage("curation.ingest", everything), chain.stage("curation.filter", kept, dropped))
    english = told["distributions"]["en"]
    assert english["documents"] == {"before": 80, "after": len(kept)}
    for one in english["statistics"].values():
        assert sum(one["before"]) == 80 and sum(one["after"]) == len(kept)
    words = english["statistics"]["words"]
    assert words["median_before"] == pytest.approx(oracle.median(len(r["text"].split()) for r in everything), rel=1e-3)
    assert words["median_after"] == pytest.approx(oracle.median(len(r["text"].split()) for r in kept), rel=1e-3)
    assert page.count("<svg") == len(SHAPES)


def test_a_score_is_drawn_before_it_decides_and_at_the_end_with_the_scorer_that_gave_it(chain: Chain) -> None:
    rng = random.Random(8)
    values = [round(rng.random(), 4) for _ in range(60)]
    scored = [record(n, scores={"toxic": value} if n % 3 else {}) for n, value in enumerate(values)]
    safe = [r for r in scored if r["scores"].get("toxic", 0) <= 0.4]
    unsafe = [gone(r, "toxic", r["scores"]["toxic"], 0.4) for r in scored if r not in safe]
    fluent = [r | {"scores": r["scores"] | {"fluency": 0.25}} for r in safe[1:]]
    low = gone(safe[0] | {"scores": safe[0]["scores"] | {"fluency": 0.1}}, "low_fluency", 0.1, 0.2)
    facts = {"scorers": {"toxic": {"digest": "5c0e" * 16, "higher_is": "worse"}}}
    told, page = chain.funnel(
        chain.stage("curation.ingest", [r | {"scores": {}} for r in scored]),
        chain.stage("curation.score", scored, facts=facts),
        chain.stage("curation.screen", safe, unsafe),
        chain.stage("curation.grade", fluent, [low]),
    )
    toxic, fluency = told["scores"]["toxic"], told["scores"]["fluency"]
    edges = np.linspace(0, 1, 21)
    assert toxic["before"] == np.histogram([v for n, v in enumerate(values) if n % 3], edges)[0].tolist()
    assert toxic["after"] == np.histogram([r["scores"].get("toxic", -1) for r in fluent], edges)[0].tolist()
    assert (toxic["step"], toxic["scorers"], toxic["higher_is"]) == ("curation.score", ["5c0e" * 16], "worse")
    assert (fluency["step"], sum(fluency["before"]), sum(fluency["after"])) == (
        "curation.grade",
        len(safe),
        len(fluent),
    )
    assert f"higher is worse · 40 documents, {len(unsafe)} dropped" in page and "scorer 5c0e5c0e5c0e" in page


@pytest.mark.parametrize("shape", [Shape("x", "x", 0, 1), Shape("x", "x", 1, 10_000, log=True)])
def test_bins_are_numpys_and_what_lies_outside_is_in_the_last_ones(shape: Shape) -> None:
    rng = random.Random(1)
    values = [shape.low + (shape.high - shape.low) * rng.random() ** 3 for _ in range(500)]
    edges = np.geomspace(shape.low, shape.high, 31) if shape.log else np.linspace(shape.low, shape.high, 31)
    assert histogram(values, shape) == np.histogram(values, edges)[0].tolist()
    assert histogram([shape.low - 5, shape.high * 5], shape) == [1, *[0] * 28, 1]


def test_a_sample_is_chosen_by_id_alone_and_is_about_as_large_as_asked(chain: Chain) -> None:
    everything = rows(0, 700)
    shuffled = random.Random(2).sample(everything, len(everything))
    one, other = (chain.funnel(chain.stage("curation.ingest", r), sample=100)[0] for r in (everything, shuffled))
    assert one["distributions"] == other["distributions"]
    assert 60 < one["distributions"]["en"]["documents"]["before"] < 140


# --- examples --------------------------------------------------------------------------------------------------------


def test_examples_do_not_hang_on_the_order_of_records_and_are_as_many_as_asked(chain: Chain) -> None:
    dropped = [gone(r, value=i) for i, r in enumerate(rows(0, 40))]
    shuffled = random.Random(4).sample(dropped, len(dropped))
    shown = [
        chain.funnel(chain.stage("curation.ingest", rows(100, 5), r), examples=4)[0]["stages"][0]["reasons"][0][
            "examples"
        ]
        for r in (dropped, shuffled)
    ]
    assert shown[0] == shown[1] and len(shown[0]) == 4
    by_id = {r["id"]: r for r in dropped}
    for one in shown[0]:
        assert one["value"] == by_id[one["id"]]["dropped"]["value"] and one["threshold"] == "≥ 50"
        assert one["excerpt"] == "The sea rises, and it falls." and (one["source"], one["path"]) == (
            "s",
            by_id[one["id"]]["path"],
        )


class Tags(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen[tag] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_a_document_says_is_text_and_never_markup(chain: Chain) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)> \" ' & </q>"
    fields = dict.fromkeys(("url", "path", "source", "dump", "type", "lang", "survivor"), evil)
    dropped = gone(record(1, evil, **fields), reason=evil, value=[evil], threshold=evil)
    _, page = chain.funnel(chain.stage("curation.ingest", rows(5, 3), [dropped]))
    tags = Tags(page)
    assert not {"script", "img", "link", "iframe"} & tags.seen.keys()
    assert tags.text.count("<script>alert(1)</script>") >= 8
    assert "http" not in page.replace(evil, "")


def test_an_excerpt_shows_the_word_that_the_decision_names_and_none_where_none_is_wanted(chain: Chain) -> None:
    text = "Water. " * 200 + "Here is the badword in its place. " + "Water. " * 200
    assert "the badword in" in around(text, ["badword"], 80) and len(around(text, ["badword"], 80)) <= 84
    assert around(text, 0.3, 20) == "Water. Water. Water. …" and around("Short.", 1, 20) == "Short."
    raw = chain.stage("curation.ingest", rows(0, 2), [gone(record(7, text))])
    told, page = chain.funnel(raw, excerpt=0)
    assert told["stages"][0]["reasons"][0]["examples"][0]["excerpt"] == "" and "Water" not in page


def test_numbers_read_as_a_person_writes_them() -> None:
    assert [size(n).replace("\xa0", " ") for n in (0, 812, 6_500_000, 123_456, 1_234_000_000_000)] == [
        "0 B",
        "812 B",
        "6.5 MB",
        "123 kB",
        "1.23 TB",
    ]
    assert [percent(p) for p in (0, 0.00001, 0.0004, 0.035, 0.5, 0.96128, 0.99997, 1)] == [
        "0%", "< 0.01%", "0.04%", "3.5%", "50%", "96.1%", "99.99%", "100%",
    ]  # fmt: skip
