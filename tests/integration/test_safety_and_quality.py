"""Block lists, scorers, annotation rounds and tiers over a real store, and a BERT with random weights."""

import gzip
import json

import numpy as np
import orjson
import pytest
import yaml
from curation_steps import Steps

from tokenmill.curation.labels import built_in
from tokenmill.curation.linear_scorer import LinearScorer
from tokenmill.curation.load_scorer import load_scorer
from tokenmill.curation.score import ScoreShard
from tokenmill.errors import InputError

INSULT = "You are a stupid idiot and a worthless piece of trash. Shut your mouth and get lost, you moron."
PROSE = "The harbour froze in January, and the boats stayed at the quay until the ice broke three weeks later."


@pytest.fixture
def steps(tmp_path):
    return Steps(tmp_path / "store")


def test_a_block_list_built_from_text_lists_screens_by_domain_and_word(steps, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "ads.txt").write_text(
        "# hosts\n0.0.0.0 bad.com\n||worse.org^\n" + "".join(f"d{i}.net\n" for i in range(997))
    )
    (lists / "more.txt.gz").write_bytes(gzip.compress(b"https://evil.example/x\nbad.com\ncom\n"))
    (lists / "words_en.txt").write_text("wicked thing\n")
    blocked = steps("build_block_list", lists=steps.sources(lists))
    assert blocked.counts == {"domains": 1000, "words": 1, "rejected": 1}
    assert blocked.shard("domains.u64").size == 8000
    rows = [{"text": PROSE, "url": url} for url in ("http://a.bad.com", "http://notbad.com", "http://evil.example/y")]
    rows += [
        {"text": f"{PROSE} A wicked\nthing."},
        {"text": f"{PROSE} Wicked, thing. Write to jane@doe.org, call 13812345678."},
    ]
    corpus = steps.corpus(tmp_path, rows)
    assert steps("screen", corpus=corpus).dropped == {}
    safe = steps("screen", corpus=corpus, block_list=blocked)
    assert safe.dropped == {"blocked_domain": 2, "blocked_word": 1}
    assert safe.counts["in"] == safe.counts["records"] + sum(safe.dropped.values())
    by_path = {r["text"][-30:]: r for r in steps.records(safe)}
    (redacted,) = [r for r in by_path.values() if "redacted" in r]
    assert redacted["redacted"] == {"email": 1, "phone": 1}
    assert redacted["text"].endswith("Write to <email>, call <phone>.")
    plain = steps("screen", {"redact": []}, corpus=corpus, block_list=blocked)
    assert not any("redacted" in r for r in steps.records(plain))


def test_a_block_list_of_garbage_is_one_clear_line(steps, tmp_path):
    (tmp_path / "list.txt").write_text("<html>\n<p>moved</p>\n")
    with pytest.raises(InputError, match=r"list\.txt line 1: '<html>' names no domain.* 2 of 2 lines"):
        steps("build_block_list", lists=steps.sources(tmp_path / "list.txt"))


def test_scores_stay_in_the_record_and_another_threshold_scores_nothing_again(steps, tmp_path, monkeypatch):
    corpus = steps.corpus(tmp_path, [{"text": INSULT}, {"text": PROSE}, {"text": f"{PROSE} " * 20 + f"\n\n{INSULT}\n"}])
    scorer = steps("train_scorer", {"score": "toxic"})
    assert scorer.facts["heldout"]["all"]["auc"] > 0.85 and scorer.facts["higher_is"] == "worse"
    scored = steps("score", corpus=corpus, scorers=[scorer])
    assert scored.counts == {"in": 3, "records": 3, "dropped": 0, "rejected": 0}
    assert scored.facts["scorers"]["toxic"]["higher_is"] == "worse"
    toxic = [r["scores"]["toxic"] for r in steps.records(scored)]
    assert min(toxic[0], toxic[2]) > 0.5 > 0.4 > toxic[1]  # one insulting paragraph makes a page insulting

    def refuse(*_):
        raise AssertionError("a scorer was loaded")

    monkeypatch.setattr("tokenmill.curation.score.load_scorer", refuse)
    assert steps("screen", corpus=scored).dropped == {"toxic": 2}
    assert steps("screen", {"max_toxic": 1.0}, corpus=scored).dropped == {}
    assert (
        steps("screen", {"thresholds": {"any_web": {"toxic": 0.0}, "en_web": {"toxic": 1.0}}}, corpus=scored).dropped
        == {}
    )


def test_a_scored_shard_is_not_scored_again_and_one_that_is_gone_is(steps, tmp_path):
    """An attempt that was killed left a marker; what it speaks of may have been lost since."""
    corpus = steps.corpus(tmp_path, [{"text": INSULT}, {"text": PROSE}])
    folder = tmp_path / "scorer"
    LinearScorer("toxic", frozenset(), np.ones(1 << 10, np.float32), 0.0).save(folder)
    work = ScoreShard(steps.store.uri, (folder,), ("web",), "cpu", 32, "work/key/scored")
    made = work((0, corpus.shards[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenmill.curation.score.scored", None)  # whoever calls it fails
        assert work((0, corpus.shards[0])) == made
    steps.store.backend.delete(f"blobs/{made.blob[:2]}/{made.blob}")
    assert work((0, corpus.shards[0])) == made and not steps.store.missing([made])


def test_collected_scorers_score_as_each_by_itself_and_none_leave_the_corpus_as_it_is(steps, tmp_path):
    corpus = steps.corpus(tmp_path, [{"text": INSULT}, {"text": PROSE}])
    scorers = [steps("train_scorer", {"score": name}) for name in ("toxic", "porn")]
    together = steps("collect_scorers", scorers=scorers)
    assert together.counts == {"scorers": 2} and together.facts == {"scores": ["porn", "toxic"]}
    assert (
        steps("score", corpus=corpus, scorers=[together]).content
        == steps("score", corpus=corpus, scorers=scorers).content
    )
    assert steps("collect_scorers", scorers=[together, scorers[0]]).content == together.content  # given twice is one
    rival = steps("train_scorer", {"score": "toxic", "features": 12})
    with pytest.raises(InputError, match="two scorers give the score 'toxic'"):
        steps("score", corpus=corpus, scorers=[steps("collect_scorers", scorers=[together, rival])])
    assert steps("score", corpus=corpus, scorers=[steps("collect_scorers", scorers=[])]).content == corpus.content
    assert steps("score", {"types": ["book"]}, corpus=corpus, scorers=scorers).content == corpus.content


@pytest.mark.usefixtures("workers_at_once")
def test_two_workers_and_one_score_the_same(tmp_path):
    rows = [{"text": f"{PROSE} Number {n}."} for n in range(30)]
    contents = set()
    for workers in (1, 2):
        steps = Steps(tmp_path / f"store{workers}")
        (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
        corpus = steps("ingest", {"shard_records": 10}, sources=steps.sources(tmp_path / "x.jsonl"))
        scorers = [steps("train_scorer", {"score": name}) for name in ("toxic", "not_ad")]
        scored = steps("score", {"execution": {"workers": workers}}, corpus=corpus, scorers=scorers[:: 3 - 2 * workers])
        contents.add(scored.content)
    assert len(contents) == 1


def test_an_annotation_round_from_samples_to_thresholds(steps, tmp_path):
    rows = [{"text": label.text, "lang": label.lang} for label in built_in("not_ad")]
    corpus = steps.corpus(tmp_path, rows)
    scorer = steps("train_scorer", {"score": "not_ad"})
    scored = steps("score", corpus=corpus, scorers=[scorer])
    samples = steps("export_samples", {"score": "not_ad", "low": 0.3, "high": 0.7, "samples": 60}, corpus=scored)
    steps("hand_out", {"to": str(tmp_path / "round1")}, artifact=samples)
    exported = [orjson.loads(line) for line in (tmp_path / "round1" / "samples.jsonl").read_bytes().splitlines()]
    assert samples.counts["samples"] == len(exported) > 40 and all(row["label"] is None for row in exported)

    truth = {label.text: label.positive for label in built_in("not_ad")}
    answers = [row | {"label": truth[row["text"]]} for row in exported]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
    (tmp_path / "round1" / "samples.jsonl").write_text("labelled")
    with pytest.raises(InputError, match="exists and differs"):  # nobody's labels are overwritten
        steps("hand_out", {"to": str(tmp_path / "round1")}, artifact=samples)
    labels = steps("import_labels", files=steps.sources(tmp_path / "answers.jsonl"))
    assert labels.counts["fresh"] == len(answers) and labels.counts["changed"] == 0

    report = orjson.loads(steps.file(steps("validate_scorer", scorer=scorer, labels=labels), "validation.json"))
    wrong = {row["text"] for row in report["conflicts"]}  # an advertisement that it did not learn from, at most
    assert len(wrong) < 3 and report["validated_languages"] == ["en", "zh"]
    chosen = steps("choose_thresholds", {"precision": 1.0}, labels=labels, scorers=[scorer])
    table = yaml.safe_load(steps.file(chosen, "thresholds.yaml"))
    assert table.keys() == {"en_web", "zh_web"}
    graded = steps("grade", {"min_fluency": 0.0, "min_not_ad": 0.0}, corpus=scored, thresholds=chosen)
    kept = {r["text"] for r in steps.records(graded)}
    assert all(truth[text] for text in kept & {row["text"] for row in exported}) and kept
    assert graded.dropped["low_not_ad"] >= sum(not row["label"] for row in answers)

    # the next round changes its mind about one text: the scorer is told where it is wrong
    doubted = next(row for row in answers if row["text"] not in wrong)
    (tmp_path / "second.jsonl").write_text(json.dumps(doubted | {"label": not doubted["label"]}))
    later = steps("import_labels", files=steps.sources(tmp_path / "second.jsonl"), earlier=labels)
    assert later.counts["changed"] == 1 and later.counts["records"] == labels.counts["records"]
    again = orjson.loads(steps.file(steps("validate_scorer", scorer=scorer, labels=later), "validation.json"))
    assert {row["text"] for row in again["conflicts"]} == {*wrong, doubted["text"]}
    with pytest.raises(InputError, match=f"{len(wrong) + 1} of .* labels of 'not_ad' come out wrong"):
        steps("validate_scorer", {"max_conflicts": 0.0}, scorer=scorer, labels=later)


def test_the_wanted_precision_decides_between_two_thresholds_and_what_each_drops(steps, tmp_path):
    scorer = steps("train_scorer", {"score": "toxic"})
    texts = sorted({label.text for label in built_in("toxic") if label.lang == "en"})
    corpus = steps.corpus(tmp_path, [{"text": text, "lang": "en"} for text in texts])
    scored = steps("score", corpus=corpus, scorers=[scorer])
    ranked = sorted(((r["scores"]["toxic"], r["text"]) for r in steps.records(scored)), reverse=True)
    gap = lambda n: ranked[n - 1][0] - ranked[n][0]  # noqa: E731
    few, many = max(range(8, 14), key=gap), max(range(24, 30), key=gap)
    # right down to the first cut, then four wrong ones, then right again down to the second, and nothing right below it
    wrong = {text for _, text in (*ranked[few : few + 4], *ranked[many:])}
    answers = [{"text": text, "score": "toxic", "lang": "en", "label": text not in wrong} for _, text in ranked]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
    labels = steps("import_labels", files=steps.sources(tmp_path / "answers.jsonl"))

    share = (many - 4) / many
    found = {}
    for precision, cut in ((1.0, few), (share, many)):
        chosen = steps("choose_thresholds", {"precision": precision}, labels=labels, scorers=[scorer])
        found[cut] = yaml.safe_load(steps.file(chosen, "thresholds.yaml"))["en_web"]["toxic"]
        safe = steps("screen", {"max_toxic": 1.0}, corpus=scored, thresholds=chosen)
        assert {r["text"] for r in steps.records(safe)} == {text for _, text in ranked[cut:]}
        assert safe.dropped == {"toxic": cut}
    assert found[few] > found[many]
    above = steps("choose_thresholds", {"precision": share + 0.001}, labels=labels, scorers=[scorer])
    assert yaml.safe_load(steps.file(above, "thresholds.yaml"))["en_web"]["toxic"] > found[many]


def test_pico_code_keeps_every_file_and_gets_tiers(steps):
    corpus = steps("ingest", sources=steps("register_sources", {"sources": "pico"}))
    tiered = steps("tier_code", corpus=corpus)
    assert tiered.counts["records"] == corpus.counts["records"] and tiered.dropped == {}
    code = [r for r in steps.records(tiered) if r["type"] == "code"]
    assert {(r["tier"], r["epochs"]) for r in code} <= {("high", 3), ("moderate", 1), ("unscored", 1)}
    assert {r["lang"] for r in code if r["tier"] == "unscored"} == {"markdown"}
    assert not any("tier" in r for r in steps.records(tiered) if r["type"] != "code")


# --- BERT ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT of two layers with random weights, saved as `transformers` saves one."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, num_labels=2, initializer_range=1.0,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder, safe_serialization=True)
    return folder


def test_a_bert_scores_windows_in_batches_as_one_by_one_and_by_hand(steps, bert, tmp_path):
    import torch
    from transformers import BertForSequenceClassification, BertTokenizerFast

    scorer = steps("import_scorer", {"score": "porn", "label": 1, "max_tokens": 64}, checkpoint=steps.sources(bert))
    assert scorer.facts == {"score": "porn", "higher_is": "worse"}
    for shard in scorer.shards:
        (tmp_path / shard.name).write_bytes(steps.store.get_blob(shard.blob))
    texts = ["a fox", "the quick brown fox jumps over the lazy dog " * 4, "zzz", "", "of bread and cake"]
    batched, single = load_scorer(tmp_path, batch=3).score(texts), load_scorer(tmp_path, batch=1).score(texts)
    assert np.allclose(batched, single, atol=1e-5) and batched.shape == (5,) and len(set(np.round(batched, 4))) > 2
    model, tokenizer = (
        BertForSequenceClassification.from_pretrained(bert).eval(),
        BertTokenizerFast.from_pretrained(bert),
    )
    with torch.no_grad():
        by_hand = model(**tokenizer("a fox", return_tensors="pt")).logits.softmax(-1)[0, 1].item()
    assert batched[0] == pytest.approx(by_hand, abs=1e-5)

    corpus = steps.corpus(tmp_path, [{"text": text} for text in texts if text])
    scored = steps.records(steps("score", {"execution": {"batch": 2}}, corpus=corpus, scorers=[scorer]))
    expected = {text: round(float(v), 4) for text, v in zip(texts, batched, strict=True)}
    assert {r["text"]: r["scores"]["porn"] for r in scored} == pytest.approx(
        {t: v for t, v in expected.items() if t}, abs=2e-4
    )


def test_pickled_weights_and_a_wrong_label_are_one_clear_line(steps, bert, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_bytes((bert / "config.json").read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(InputError, match="pickled weights are not read"):
        steps("import_scorer", checkpoint=steps.sources(folder))
    scorer = steps("import_scorer", {"score": "toxic", "label": 7, "max_tokens": 64}, checkpoint=steps.sources(bert))
    corpus = steps.corpus(tmp_path, [{"text": PROSE}])
    with pytest.raises(InputError, match="label 7 of a model with 2 outputs"):
        steps("score", corpus=corpus, scorers=[scorer])
