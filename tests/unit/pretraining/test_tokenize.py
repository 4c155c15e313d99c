"""Which documents are held out."""

import pytest
from pico import Lab

from tokenmill.pretraining.config import TokenizeConfig
from tokenmill.records import JSONL, read_jsonl


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def tokenized(lab, sizes: dict[str, int], share: float, parts: int = 1) -> dict[str, set[str]]:
    """Type → ids of the held-out documents, of a corpus with so many documents a type."""
    shards = {}
    for kind, n in sizes.items():
        rows = [
            {"id": f"{kind}-{i}", "type": kind, "lang": "en", "source": "tales", "text": f"the old king {i}"}
            for i in range(n)
        ]
        for part in range(parts):
            shards[f"type={kind}/lang=en/part-{part:05d}{JSONL}"] = rows[part::parts]
    corpus = lab.issue("corpus", shards)
    made = lab.step("pretraining.tokenize", TokenizeConfig(heldout_share=share), corpus=corpus, tokenizer=lab.tokenizer)
    index = [shard for shard in made["output"].shards if shard.name.endswith(f".documents{JSONL}")]
    rows = [row for shard in index for row in read_jsonl(lab.store.blob_path(shard.blob))]
    return {kind: {row["id"] for row in rows if row["type"] == kind and row["heldout"]} for kind in sizes}


def test_a_domain_of_few_documents_holds_out_its_share_and_at_least_one(lab):
    heldout = tokenized(lab, {"book": 13, "code": 100, "web": 2, "techlit": 1}, share=0.04)
    assert {kind: len(ids) for kind, ids in heldout.items()} == {"book": 1, "code": 4, "web": 1, "techlit": 0}


def test_a_domain_of_many_documents_holds_out_about_its_share(lab):
    assert 70 < len(tokenized(lab, {"math": 2500}, share=0.04)["math"]) < 130


def test_the_choice_does_not_depend_on_shards(lab):
    sizes = {"book": 40, "math": 600}
    assert tokenized(lab, sizes, 0.04, parts=1) == tokenized(lab, sizes, 0.04, parts=3)
