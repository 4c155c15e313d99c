"""Lineage over planted histories: who came from what, which models saw a document, what changed between two."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tokenmill.errors import InputError
from tokenmill.lineage import diff, downstream, find_document, resolve, upstream
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.records import write_jsonl
from tokenmill.store import ArtifactStore, open_store
from tokenmill.tracking import EventLog, RunRef

Files = Mapping[str, Iterable[Mapping[str, Any]]]


class History:
    """Issues manifests as steps would."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store = open_store((folder / "store").as_uri())

    def make(
        self,
        kind: str,
        step: str,
        files: Files | None = None,
        aside: Files | None = None,
        config: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        version: int = 1,
        seed: str = "",
        **parents: Manifest | list[Manifest],
    ) -> Manifest:
        shards = [self._shard(name, rows) for name, rows in (files or {"data.jsonl.zst": [{"seed": seed}]}).items()]
        dropped = [self._shard(name, rows) for name, rows in (aside or {}).items()]
        counts = {"records": sum(s.records for s in shards)}
        draft = Draft(kind=kind, shards=tuple(shards), aside=tuple(dropped), counts=counts, facts=dict(facts or {}))
        roles = {r: tuple(m.digest for m in (p if isinstance(p, list) else [p])) for r, p in parents.items()}
        manifest = Manifest.issue(draft, parents=roles, step=step, version=version, config=dict(config or {}))
        self.store.put_manifest(manifest)
        return manifest

    def _shard(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Shard:
        path = self.folder / "part"
        content, count = write_jsonl(path, [dict(row) for row in rows])
        blob, size = self.store.put_blob(path)
        return Shard(name=name, blob=blob, content=content, size=size, records=count)

    def sources(self, licence: str = "MIT") -> Manifest:
        facts = {"sources": {"poems": {"licence": licence, "origin": "npm chinese-poetry", "type": "book"}}}
        return self.make("sources", "curation.register_sources", facts=facts, seed="raw")


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path)


@pytest.fixture
def store(history: History) -> ArtifactStore:
    return history.store


def docs(*names: str) -> list[dict[str, str]]:
    return [{"id": name, "text": f"the text of {name}"} for name in names]


def corpus_file(*names: str) -> Files:
    return {"type=web/lang=en/part-00000.jsonl.zst": docs(*names)}


def life(
    h: History, *, min_words: int = 3, licence: str = "MIT", optim: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A small life: d3 is filtered out (but the tokenizer learned from it), d4 is in a source of its own."""
    m: dict[str, Any] = {"sources": h.sources(licence)}
    m["ingest"] = h.make("corpus", "curation.ingest", corpus_file("d1", "d2", "d3"), sources=m["sources"])
    m["filter"] = h.make(
        "corpus",
        "curation.filter",
        corpus_file("d1", "d2"),
        aside={"dropped/p": [docs("d3")[0] | {"dropped": {"reason": "short", "value": 2, "threshold": 3}}]},
        config={"rules": {"min_words": min_words}},
        corpus=m["ingest"],
    )
    m["tokenizer"] = h.make("tokenizer", "curation.train_tokenizer", seed="tok", corpus=m["ingest"])
    rows = [{"id": "d1", "offset": 0, "heldout": False}, {"id": "d2", "offset": 90, "heldout": True}]
    packed = {"type=web/part-00000.documents.jsonl.zst": rows, "meta.jsonl.zst": docs("d3")}
    m["tokens"] = h.make("tokens", "curation.tokenize", packed, corpus=m["filter"], tokenizer=m["tokenizer"])
    m["base"] = h.make(
        "weights", "pretraining.train", config={"lr": 0.1, **(optim or {})}, seed="base", tokens=m["tokens"]
    )
    m["chats"] = h.make("conversations", "sft.collect", {"chats.jsonl.zst": docs("c1")}, sources=m["sources"])
    m["chat"] = h.make("weights", "sft.train", seed="chat", base=m["base"], conversations=m["chats"])
    m["code"] = h.make("corpus", "curation.tier_code", corpus_file("d4"), sources=m["sources"])
    m["coder"] = h.make("weights", "enhancement.enhance", seed="coder", corpus=m["code"], tokenizer=m["tokenizer"])
    m["questions"] = h.make("questions", "evaluation.collect", {"q.jsonl.zst": docs("q1")})
    m["evaluation"] = h.make("evaluation", "evaluation.run", seed="e", model=m["chat"], questions=m["questions"])
    m["verdict"] = h.make("verdict", "evaluation.gate", seed="v", evaluation=m["evaluation"])
    m["patched"] = h.make("weights", "rlhf.ppo", seed="rl", policy=m["coder"], go=m["verdict"])
    return m


def test_upstream_reaches_every_ancestor_and_its_licence(history: History, store: ArtifactStore) -> None:
    m = life(history)
    graph = upstream(store, m["chat"].digest)
    expected = {m[name].digest for name in
                ("sources", "ingest", "filter", "tokenizer", "tokens", "base", "chats", "chat")}  # fmt: skip
    assert set(graph.nodes) == expected
    assert [(s.name, s.licence, s.origin) for s in graph.sources] == [("poems", "MIT", "npm chinese-poetry")]
    assert [e.role for e in graph.parents(m["tokens"].digest)] == ["corpus", "tokenizer"]
    order = list(graph.nodes)
    assert all(order.index(e.parent) < order.index(e.child) for e in graph.edges)


def test_downstream_is_the_same_graph_seen_from_above(history: History, store: ArtifactStore) -> None:
    m = life(history)
    below = downstream(store, m["ingest"].digest)
    by_hand = {d.digest for d in m.values() if m["ingest"].digest in upstream(store, d.digest).nodes}
    assert set(below.nodes) == by_hand
    assert m["questions"].digest not in below.nodes


def test_a_parent_that_is_gone_is_named_not_hidden(history: History, store: ArtifactStore) -> None:
    m = life(history)
    store.backend.delete(f"manifests/{m['ingest'].digest}")
    graph = upstream(store, m["chat"].digest)
    assert graph.missing == {m["ingest"].digest} and m["ingest"].digest not in graph.nodes
    assert "is gone" in shown(graph.tree())


def test_a_shared_ancestor_is_unfolded_once(history: History, store: ArtifactStore) -> None:
    m = life(history)
    text = shown(upstream(store, m["base"].digest).tree())
    assert text.count("curation.register_sources") == 1 and "as above" in text


@pytest.mark.parametrize("form", ["{d}", "{p}", "{uri}/manifests/{d}", "/some/mount/manifests/{d}"])
def test_references_that_name_one_artifact(form: str, history: History, store: ArtifactStore) -> None:
    digest = life(history)["chat"].digest
    assert resolve(store, form.format(d=digest, p=digest[:10], uri=store.uri)) == digest


def test_references_that_name_none_or_many_say_so(history: History, store: ArtifactStore) -> None:
    life(history)
    with pytest.raises(InputError, match="is no artifact"):
        resolve(store, "nonsense!")
    with pytest.raises(InputError, match="no manifest 0000"):
        resolve(store, "0" * 64)
    with pytest.raises(InputError, match="fits 0 manifests"):
        resolve(store, "0000000000")
    first = {}
    for number in range(40):  # two manifests with one beginning
        made = history.make("report", "x.report", seed=str(number))
        if (start := made.digest[:1]) in first:
            store.backend.put(f"manifests/{first[start][:8]}{made.digest[8:]}", made.to_json())
            with pytest.raises(InputError, match="fits 2 manifests"):
                resolve(store, first[start][:8])
            return
        first[start] = made.digest
    raise AssertionError("no two digests began alike")


def test_a_document_reaches_the_models_trained_on_it_and_no_others(history: History, store: ArtifactStore) -> None:
    m = life(history)
    trace = find_document(store, "d1")
    assert {(s.step, s.record, s.offset) for s in trace.sightings} == {
        ("curation.ingest", 0, None),
        ("curation.filter", 0, None),
        ("curation.tokenize", 0, 0),
    }
    # the coder was trained on other documents, with a tokenizer that had seen this one
    assert {(i.step, i.through) for i in trace.models} == {
        ("pretraining.train", "training data"),
        ("sft.train", "training data"),
        ("enhancement.enhance", "tokenizer"),
        ("rlhf.ppo", "tokenizer"),
    }
    chat = next(i for i in trace.models if i.digest == m["chat"].digest)
    assert chat.path == (m["tokens"].digest, m["base"].digest, m["chat"].digest)


def test_a_filtered_document_reaches_no_model_by_data_and_says_why(history: History, store: ArtifactStore) -> None:
    life(history)
    trace = find_document(store, "d3")
    assert [(d.step, d.reason, d.value, d.threshold) for d in trace.dropped] == [("curation.filter", "short", 2, 3)]
    assert {i.through for i in trace.models} == {"tokenizer"}
    assert "dropped by curation.filter" in shown(trace.tree())


def test_a_held_out_document_lies_in_the_tokens_and_reaches_no_model_by_data(
    history: History, store: ArtifactStore
) -> None:
    life(history)
    trace = find_document(store, "d2")
    assert [(s.offset, s.held_out) for s in trace.sightings if s.kind == "tokens"] == [(90, True)]
    assert {i.through for i in trace.models} == {"tokenizer"}


def test_a_file_joined_into_its_repository_is_followed(history: History, store: ArtifactStore) -> None:
    files = history.make("corpus", "curation.grade", corpus_file("f1", "f2", "f3"))
    repositories = [
        {"id": "repo-a", "text": "…", "files": [{"id": "f1", "path": "a.py"}, {"id": "f2", "path": "b.py"}]},
        {"id": "repo-b", "text": "…", "files": [{"id": "f3", "path": "c.py"}]},
    ]
    joined = history.make("corpus", "curation.order_code", {"p.jsonl.zst": repositories}, corpus=files)
    for name in ("repo-a", "repo-b"):
        rows = [{"id": name, "offset": 7, "heldout": False}]
        tokens = history.make("tokens", "pretraining.tokenize", {"p.documents.jsonl.zst": rows}, corpus=joined)
        history.make("weights", f"pretraining.{name}", seed=name, tokens=tokens)
    trace = find_document(store, "f2")
    assert [(s.step, s.within) for s in trace.sightings] == [
        ("curation.grade", ""),
        ("curation.order_code", "repo-a"),
        ("pretraining.tokenize", "repo-a"),
    ]
    assert [i.step for i in trace.models] == ["pretraining.repo-a"]


def test_a_question_asked_of_a_model_is_not_something_it_was_trained_on(history: History, store: ArtifactStore) -> None:
    life(history)  # its evaluation opened the gate for rlhf.ppo, which is no training on it
    trace = find_document(store, "q1")
    assert [s.step for s in trace.sightings] == ["evaluation.collect"] and trace.models == []


def test_tokens_without_a_map_are_taken_to_hold_their_parents_documents(history: History, store: ArtifactStore) -> None:
    corpus = history.make("corpus", "curation.filter", corpus_file("d1"))
    tokens = history.make("tokens", "curation.tokenize", seed="opaque", corpus=corpus)
    history.make("weights", "pretraining.train", tokens=tokens)
    assert [i.step for i in find_document(store, "d1").models] == ["pretraining.train"]


def test_a_document_named_in_a_text_is_not_that_document(history: History, store: ArtifactStore) -> None:
    history.make("corpus", "curation.filter", {"p.jsonl.zst": [{"id": "other", "text": '"d1"', "title": "d1"}]})
    assert find_document(store, "d1").sightings == []


def test_diff_of_equal_histories_is_empty(history: History, store: ArtifactStore) -> None:
    digest = life(history)["chat"].digest
    assert diff(store, digest, digest).nodes == []
    assert "no difference" in shown(diff(store, digest, digest).tree())


def test_diff_finds_the_edited_option_and_calls_the_rest_its_consequences(
    history: History, store: ArtifactStore
) -> None:
    one, other = life(history), life(history, min_words=5)
    found = diff(store, one["chat"].digest, other["chat"].digest)
    (cause,) = found.causes
    assert cause.step == "curation.filter"
    assert [tuple(c) for c in cause.changes] == [("config", "rules.min_words", 3, 5)]
    assert cause.path == "base ← tokens ← corpus"
    assert [n.step for n in found.consequences] == ["curation.tokenize", "pretraining.train", "sft.train"]


def test_diff_finds_a_licence_that_changed_under_equal_bytes(history: History, store: ArtifactStore) -> None:
    one, other = life(history), life(history, licence="CC-BY-NC-4.0")
    found = diff(store, one["chat"].digest, other["chat"].digest)
    (cause,) = found.causes
    assert cause.step == "curation.register_sources" and cause.same_content
    assert [tuple(c) for c in cause.changes] == [("facts", "sources.poems.licence", "MIT", "CC-BY-NC-4.0")]
    assert all(n.same_content for n in found.nodes)  # not one byte is different
    assert "same bytes" in shown(found.tree()) and "CC-BY-NC-4.0" in shown(found.tree())


def test_diff_finds_two_causes_an_option_set_and_an_input_added(history: History, store: ArtifactStore) -> None:
    one, other = life(history), life(history, optim={"warmup": 10})
    extra = history.make("corpus", "curation.ingest", corpus_file("d9"))
    tokens = history.make("tokens", "curation.tokenize", seed="2", corpus=[other["filter"], extra])
    base = history.make("weights", "pretraining.train", config={"lr": 0.1, "warmup": 10}, seed="base", tokens=tokens)
    found = diff(store, one["base"].digest, base.digest)
    changes = {(n.step, c.what, c.field) for n in found.causes for c in n.changes if c.what != "counts"}
    assert ("pretraining.train", "config", "warmup") in changes
    assert ("curation.tokenize", "inputs", "corpus") in changes
    assert ("curation.tokenize", "inputs", "tokenizer") in changes


def test_diff_of_two_runs_compares_their_outputs_by_task(history: History, store: ArtifactStore) -> None:
    keys = []
    for manifests in (life(history), life(history, min_words=5)):
        run = RunRef.new("lifecycle")
        with EventLog(store, run, "filter") as log:
            log.step_finished("curation.filter", {"output": manifests["filter"]}, "miss", 1.0)
        with EventLog(store, run, "train") as log:
            log.step_finished("pretraining.train", {"weights": manifests["base"]}, "miss", 1.0)
        keys.append(run.key)
    with EventLog(store, RunRef(key=keys[1], name="lifecycle"), "chat") as log:
        log.step_finished("sft.train", {"weights": manifests["chat"]}, "miss", 1.0)
    found = diff(store, f"run:{keys[0]}", f"run:{keys[1]}")
    assert [n.step for n in found.causes] == ["curation.filter", "sft.train"]
    assert [(c.what, c.before) for c in found.causes[1].changes] == [("output", None)]
    assert [n.step for n in found.consequences] == ["curation.tokenize", "pretraining.train"]
    with pytest.raises(InputError, match="no run 'nobody'"):
        diff(store, "run:nobody", f"run:{keys[0]}")


def test_graphs_traces_and_diffs_are_plain_json(history: History, store: ArtifactStore) -> None:
    import orjson

    m = life(history)
    graph = orjson.loads(orjson.dumps(upstream(store, m["chat"].digest).to_json()))
    assert graph["sources"][0]["licence"] == "MIT" and len(graph["nodes"]) == 8
    assert orjson.dumps(find_document(store, "d1").to_json())
    assert orjson.dumps(diff(store, m["chat"].digest, m["coder"].digest).to_json())


def shown(tree: Any) -> str:
    from rich.console import Console

    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        console.print(tree)
    return captured.get()
