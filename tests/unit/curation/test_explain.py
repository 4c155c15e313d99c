"""A document's history in a planted life: what was done to it is known, and so is what must not be read."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from planted_run import PlantedRun
from rich.console import Console

from tokenmill.curation import shard_search as module
from tokenmill.curation.explain import explain
from tokenmill.curation.history import History
from tokenmill.curation.text_changes import text_changes
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.store import ArtifactStore, open_store
from tokenmill.tracking import RunRef

PART, OTHER = "type=web/lang=en/part-00000.jsonl.zst", "type=web/lang=en/part-00001.jsonl.zst"
Record = dict[str, Any]


def record(identity: str, text: str = "The sea rises.", **more: Any) -> Record:
    return {"id": identity, "text": text, "type": "web", "lang": "en", "source": "notes", "path": f"{identity}.txt"} | {
        "scores": {}
    } | more  # fmt: skip


def gone(one: Record, reason: str, value: Any, threshold: Any = None, **more: Any) -> Record:
    return one | {"dropped": {"reason": reason, "value": value, "threshold": threshold}} | more


KEPT, MENDED, SHORT, COPY = (
    record("aaaa1111"),
    record("aaab2222", "a\u200b\r\nb"),
    record("cccc3333"),
    record("dddd4444"),
)
FILE = record("eeee5555", "import b", type="code", lang="python", source="repo", path="a.py")


class Life:
    """sources → ingest → filter → deduplicate → grade → order_code → tokens → weights."""

    def __init__(self, store: ArtifactStore, folder: Path):
        self.store, self.planted = store, PlantedRun(store, folder, RunRef(key="one", name="one"))
        registered = self.draft("sources", facts={"sources": {"notes": {"licence": "CC0-1.0", "origin": "our wiki"}}})
        blob, size = store.put_blob(b"raw")
        shard = registered.shards[0].model_copy(update={"name": "web/notes/aaaa1111.txt", "blob": blob, "size": size})
        self.sources = self.step("curation.register_sources", registered.model_copy(update={"shards": (shard,)}))
        self.raw = self.corpus("ingest", [KEPT, SHORT, COPY], [MENDED, FILE], sources=self.sources)
        mended = MENDED | {"text": "a\nb"}
        self.clean = self.corpus(
            "filter", [KEPT, COPY], [mended, FILE], [gone(SHORT, "length", 3, "≥ 50")], corpus=self.raw
        )
        twin = gone(COPY, "near_duplicate", 0.9765625, 0.7, survivor="aaab2222")
        self.unique = self.corpus("deduplicate", [KEPT], [mended, FILE], [twin], corpus=self.clean)
        scored = KEPT | {"scores": {"fluency": 0.9}}
        self.graded = self.corpus("grade", [scored], [mended, FILE], corpus=self.unique)
        parts = [{"id": "ffff0000", "path": "b.py"}, {"id": "eeee5555", "path": "a.py"}]
        repository = record("beef6666", "## b.py", type="code", source="repo", path=".", files=parts)
        self.ordered = self.corpus("order_code", [scored], [mended, repository], corpus=self.graded)
        documents = [{"id": "aaaa1111", "offset": 40}, {"id": "beef6666", "offset": 90, "heldout": True}]
        files = {"train/documents.jsonl.zst": documents}
        self.tokens = self.step("pretraining.tokenize", self.draft("tokens", files), corpus=self.ordered)
        self.weights = self.step("pretraining.pretrain", self.draft("weights"), tokens=self.tokens)

    def draft(self, kind: str, files: Any = None, **fields: Any) -> Draft:
        return self.planted.draft(kind, files, **fields)

    def step(self, name: str, draft: Draft, **inputs: Manifest) -> Manifest:
        return self.planted.step(name, {"output": draft}, **inputs)["output"]

    def corpus(
        self, step: str, first: list[Record], second: list[Record], aside: list[Record] = [], **inputs: Manifest
    ) -> Manifest:
        shards = self.draft("corpus", {f"dropped/{PART}": aside}).shards if aside else ()
        files = {PART: first, OTHER: second}
        counts = {"in": len(first) + len(second) + len(aside), "records": len(first) + len(second)}
        return self.step(f"curation.{step}", self.draft("corpus", files, counts=counts, aside=shards), **inputs)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    """To look at."""
    folder = tmp_path_factory.mktemp("life")
    return Life(open_store((folder / "store").as_uri()), folder)


@pytest.fixture
def own_life(tmp_path: Path) -> Life:
    """To go on with."""
    return Life(open_store((tmp_path / "store").as_uri()), tmp_path)


def fates(history: History) -> list[tuple[str, str]]:
    return [(fate.step.removeprefix("curation."), fate.fate) for fate in history.stages]


def drawn(history: History) -> str:
    written = StringIO()
    Console(file=written, width=300).print(history.tree())
    return written.getvalue()


def test_a_document_that_was_kept_to_the_end_and_the_model_that_learned_from_it(life: Life) -> None:
    history = explain(life.store, "aaaa1111")
    assert fates(history) == [
        ("ingest", "read"), ("filter", "kept"), ("deduplicate", "kept"), ("grade", "kept"), ("order_code", "kept"),
    ]  # fmt: skip
    (origin,) = history.origins
    assert (origin.source, origin.path, origin.licence, origin.origin, origin.bytes) == (
        "notes", "aaaa1111.txt", "CC0-1.0", "our wiki", 3,
    )  # fmt: skip
    assert history.stages[3].scores == {"fluency": 0.9}
    assert [(s.kind, s.offset, s.held_out) for s in history.tokens] == [("tokens", 40, False)]
    assert [m.digest for m in history.trace.models] == [life.weights.digest]
    assert "reached pretraining.pretrain" in drawn(history) and "CC0-1.0" in drawn(history)


def test_a_dropped_document_names_rule_value_and_threshold_and_nothing_after_it(life: Life) -> None:
    history = explain(life.store, "cccc3333")
    assert fates(history) == [("ingest", "read"), ("filter", "dropped")]
    last = history.stages[-1]
    assert (last.reason, last.value, last.threshold) == ("length", 3, "≥ 50")
    assert history.tokens == [] and history.trace.models == []
    assert "dropped by length: 3 against ≥ 50" in drawn(history) and "reached no model" in drawn(history)


def test_a_duplicate_names_the_copy_that_was_kept(life: Life) -> None:
    last = explain(life.store, "dddd4444").stages[-1]
    assert last.step == "curation.deduplicate" and last.reason == "near_duplicate"
    assert last.survivor == {"id": "aaab2222", "source": "notes", "path": "aaab2222.txt"}


def test_what_a_stage_changed_is_shown_with_its_invisible_characters(life: Life) -> None:
    clean = explain(life.store, "aaab2222").stages[1]
    assert clean.fate == "modified" and clean.changed_lines == 1
    assert [tuple(change) for change in clean.changes] == [(1, "a\\u200b\\r", "a")]


def test_a_file_is_followed_into_its_repository_and_a_held_out_document_reaches_no_model(life: Life) -> None:
    history = explain(life.store, "eeee5555")
    assert fates(history)[-2:] == [("grade", "kept"), ("order_code", "joined")]
    assert history.stages[-1].within == {"id": "beef6666", "path": ".", "position": 2, "files": 2}
    assert [(s.offset, s.held_out, s.within) for s in history.tokens] == [(90, True, "beef6666")]
    assert history.trace.models == []


def test_a_repository_document_begins_where_its_files_were_joined(life: Life) -> None:
    history = explain(life.store, "beef")
    assert history.document == "beef6666" and fates(history) == [("order_code", "made")]
    assert [part["path"] for part in history.files] == ["b.py", "a.py"]


def test_a_beginning_must_fit_one_document_and_an_exact_id_always_does(life: Life) -> None:
    assert explain(life.store, "aaaa").document == "aaaa1111"
    with pytest.raises(InputError, match=r"'aaa' begins 2 documents' ids: aaaa1111, aaab2222; give more"):
        explain(life.store, "aaa")
    with pytest.raises(
        InputError, match=r"no document 'zzz': searched 5 records of 5 corpora in file:.*curation\.ingest"
    ):
        explain(life.store, "zzz")
    with pytest.raises(InputError, match="give a document's id"):
        explain(life.store, "")


def test_a_run_or_a_corpus_bounds_what_is_searched(life: Life) -> None:
    assert fates(explain(life.store, "aaaa1111", corpus=life.clean.digest[:12])) == [
        ("ingest", "read"),
        ("filter", "kept"),
    ]
    assert len(explain(life.store, "aaaa1111", run="one").stages) == 5
    with pytest.raises(InputError, match="no run 'other'"):
        explain(life.store, "aaaa1111", run="other")
    with pytest.raises(InputError, match="has no corpus to look into"):
        explain(life.store, "aaaa1111", corpus=life.sources.digest)


def test_another_run_that_decided_otherwise_is_told_beside_the_first(own_life: Life) -> None:
    kept = own_life.corpus("filter", [KEPT, SHORT, COPY], [MENDED, FILE], corpus=own_life.raw)
    history = explain(own_life.store, "cccc3333")
    assert sorted(fates(history)) == [("filter", "dropped"), ("filter", "kept"), ("ingest", "read")]
    assert {fate.digest for fate in history.stages} == {own_life.raw.digest, own_life.clean.digest, kept.digest}


def test_shards_are_left_at_the_hit_and_not_read_after_a_drop(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    lines = module.read_lines

    def counted(path: Path) -> Any:
        for line in lines(path):
            read.append(path.name)
            yield line

    monkeypatch.setattr(module, "read_lines", counted)
    explain(life.store, "cccc3333")
    blobs = {
        manifest.step: {s.name: s.blob for s in (*manifest.shards, *manifest.aside)}
        for manifest in (life.raw, life.clean)
    }
    raw, clean = blobs["curation.ingest"][PART], blobs["curation.filter"]
    assert read.count(raw) == 4  # twice as far as its second line: once for the id, once for the record
    assert set(read) == {raw, clean[PART], clean[f"dropped/{PART}"]}


def test_what_a_document_says_is_no_markup_and_json_is_plain(own_life: Life) -> None:
    own_life.corpus("ingest", [record("77777777", "[bold]not markup[/nonsense]", path="[red]x[/]")], [record("8")])
    history = explain(own_life.store, "77777777")
    assert "[bold]not markup[/nonsense]" in drawn(history) and "notes/[red]x[/]" in drawn(history)
    told = history.to_json()
    assert told["document"] == "77777777" and told["stages"][0]["fate"] == "read"


def test_changes_are_cut_to_where_lines_differ_and_all_are_counted() -> None:
    long = "x" * 500
    changes, n_changed = text_changes(f"{long}a\nsame\n" + "one \n" * 20, f"{long}b\nsame\n" + "one\n" * 20, most=3)
    assert n_changed == 21 and len(changes) == 3
    assert changes[0] == (1, "… " + "x" * 40 + "a", "… " + "x" * 40 + "b")
    assert changes[1] == (3, "one·", "one")
    assert text_changes("a", "a") == ([], 0)
    assert text_changes("a\nb", "a") == ([(2, "b", "(no line)")], 1)
