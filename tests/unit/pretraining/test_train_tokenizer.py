"""The step: what is learned from and measured, ranks with a Chinese block, and what is refused."""

import json

import pytest
from made_tokenizers import CHAPTERS, some_ranks, write_ranks
from pico import Lab, documents

from tokenmill.errors import InputError
from tokenmill.lineage import upstream
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.pretraining.config import RegisterRanksConfig, TokenizerConfig
from tokenmill.records import JSONL
from tokenmill.steps.files import materialise
from tokenmill.tracking import read_events

PICO = TokenizerConfig(vocab_size=640, spare_tokens=16)


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def corpus(lab, **texts: list[str]):
    """`web_en=[…]` → a partition of documents."""
    shards = {}
    for domain, given in texts.items():
        kind, lang = domain.split("_")
        rows = [
            {"id": f"{domain}-{i}", "type": kind, "lang": lang, "source": "tales", "text": t}
            for i, t in enumerate(given)
        ]
        shards[f"type={kind}/lang={lang}/part-00000{JSONL}"] = rows
    return lab.issue("corpus", shards)


def made(lab, manifest):
    folder = materialise(lab.store, manifest, lab.folder / manifest.content[:12])
    return Tokenizer.load(folder), json.loads((folder / "fertility.json").read_text())["domains"]


def test_fertility_is_measured_a_domain_on_what_was_not_learned(lab):
    """The second of each twenty documents is of letters that no other has: learned, it would be one token a word."""
    tales = [record["text"] for record in documents()[:40]]
    tales[1] = tales[21] = "qzx qzx qzx"
    given = corpus(lab, web_en=tales, book_zh=CHAPTERS[:3], code_python=["x = x + 1"])
    manifest = lab.step("pretraining.train_tokenizer", PICO, corpus=given)["output"]
    _, rows = made(lab, manifest)
    found = {(row["type"], row["lang"]): row for row in rows}
    assert found.keys() == {("web", "en"), ("book", "zh"), ("code", "python")}
    english, chinese, code = (found[d] for d in (("web", "en"), ("book", "zh"), ("code", "python")))
    assert (english["documents"], english["words"], english["tokens_per_word"]) == (2, 6, 22 / 6)  # 11 bytes each
    assert chinese["characters"] == len(CHAPTERS[1]) and chinese["tokens_per_word"] is None
    assert [row["held_back"] for row in (english, chinese, code)] == [True, True, False]
    assert code["documents"] == 1  # the only one: measured all the same


def test_the_sample_is_cut_by_bytes_and_equal_by_domain(lab):
    given = corpus(lab, web_en=["ab " * 1000] * 100, book_zh=["语言" * 500] * 100)
    config = PICO.model_copy(update={"sample_bytes": 120_000})
    _, rows = made(lab, lab.step("pretraining.train_tokenizer", config, corpus=given)["output"])
    assert [row["bytes"] for row in rows] == [3000, 3000]  # 60,000 bytes each are 20 documents, one held back


def test_fertility_is_a_metric_of_the_step(lab):
    manifest = lab.step("pretraining.train_tokenizer", PICO, corpus=lab.corpus)["output"]
    _, (row,) = made(lab, manifest)
    values = {
        k: v
        for event in read_events(lab.store, lab.run.key)
        if event.kind == "metrics"
        for k, v in event.data["values"].items()
    }
    assert values["fertility/web/en/characters_per_token"] == row["characters_per_token"]
    assert manifest.counts == {"vocabulary": 640}


def test_ranks_are_registered_and_the_tokenizer_is_built_on_them(lab, tmp_path):
    ranks = some_ranks()
    file = write_ranks(tmp_path / "some.tiktoken", ranks)
    registered = lab.step(
        "pretraining.register_ranks", RegisterRanksConfig(file=file.as_uri(), licence="MIT", origin="learned in a test")
    )["output"]
    given = corpus(lab, web_en=[record["text"] for record in documents()], book_zh=CHAPTERS[:30])
    config = TokenizerConfig(vocab_size=2560, spare_tokens=147, base_tokens=1200, chinese_tokens=900)
    manifest = lab.step("pretraining.train_tokenizer", config, corpus=given, ranks=[registered])["output"]
    _, rows = made(lab, manifest)
    assert manifest.counts == {"vocabulary": 2560, "base": 1200, "chinese": 900}
    assert [(s.name, s.licence) for s in upstream(lab.store, manifest.digest).sources if s.name == "some"] == [
        ("some", "MIT")
    ]
    learned_alone, _ = Tokenizer.build(ranks, [], vocab_size=2560, spares=147, base_tokens=1200, chinese_tokens=0)
    zh = next(row for row in rows if row["lang"] == "zh")
    assert zh["characters_per_token"] > 1.2 * len(CHAPTERS[1]) / len(learned_alone.encode(CHAPTERS[1]))
    without = lab.step("pretraining.train_tokenizer", config, corpus=given)["output"]
    assert without.content != manifest.content


def test_no_ranks_are_the_same_as_none(lab):
    """The pipelines always register ranks: where none are named, the tokenizer is found in the cache all the same."""
    nothing = lab.step("pretraining.register_ranks", RegisterRanksConfig())["output"]
    alone = lab.step("pretraining.train_tokenizer", PICO, corpus=lab.corpus)["output"]
    beside = lab.step("pretraining.train_tokenizer", PICO, corpus=lab.corpus, ranks=[nothing])["output"]
    assert beside.content == alone.content
    finished = [e.data["cache"] for e in read_events(lab.store, lab.run.key) if e.kind == "step_finished"]
    assert finished == ["effect", "miss", "hit"]


def test_what_is_missing_is_said(lab, tmp_path):
    file = write_ranks(tmp_path / "some.tiktoken", some_ranks())
    told = {"licence": "MIT", "origin": "here"}
    for options, message in (
        ({"file": str(file)}, "has no licence: give pretraining.register_ranks.licence"),
        ({"file": str(file), "licence": "MIT"}, "has no origin"),
        ({"file": str(tmp_path / "nowhere"), **told}, "no rank file at .*nowhere"),
        ({"file": "https://example.org/x.tiktoken", **told}, "cannot read ranks at https: URIs"),
    ):
        with pytest.raises(InputError, match=message):
            lab.step("pretraining.register_ranks", RegisterRanksConfig(**options))
    registered = lab.step("pretraining.register_ranks", RegisterRanksConfig(file=str(file), **told))["output"]
    config = TokenizerConfig(vocab_size=2560, spare_tokens=147, base_tokens=1200)
    with pytest.raises(InputError, match="no document in zh .*chinese_tokens=0"):
        lab.step("pretraining.train_tokenizer", config, corpus=lab.corpus, ranks=[registered])
