"""Token shards as a step writes them: read where the store has them, and only when they are asked for."""

import numpy
import orjson
import pytest
from pico import Lab

from tokenmill.errors import CorruptError
from tokenmill.records import write_jsonl
from tokenmill.training.tokens import DOCUMENTS, META, TOKENS, identity_of, read_documents


def shard(name, lang, sizes, first):
    """Files of one shard of a partition, whose tokens count up from `first`."""
    rows, offset = [], 0
    for i, size in enumerate(sizes):
        kept = {"heldout": i == 1} | ({"epochs": 2} if i == 2 else {})
        rows.append(
            {"id": f"{name}-{i}", "type": "book", "lang": lang, "source": "s", "offset": offset, "tokens": size} | kept
        )
        offset += size
    return rows, numpy.arange(first, first + offset, dtype="<u2")


@pytest.fixture
def issued(tmp_path):
    lab = Lab(tmp_path)

    def issue(shards):
        folder = tmp_path / "tokens"
        for name, (rows, tokens) in shards.items():
            path = folder / f"{name}{TOKENS}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tokens.tobytes())
            write_jsonl(folder / f"{name}{DOCUMENTS}", rows)
        (folder / META).write_bytes(orjson.dumps({"dtype": "<u2", "tokenizer": "t"}))
        return lab.store, lab.issue_folder("tokens", folder)

    return issue


SHARDS = {
    "type=book/lang=en/part-00000": shard("en", "en", [5, 3, 4], 100),
    "type=book/lang=zh/part-00000": shard("zh", "zh", [2, 6], 200),
}


def test_documents_are_those_that_were_written(issued):
    documents = read_documents(*issued(SHARDS))
    assert len(documents) == 5
    assert documents.kinds == (("book", "en"), ("book", "zh")) and documents.kind.tolist() == [0, 0, 0, 1, 1]
    assert documents.heldout.tolist() == [False, True, False, False, True]
    assert documents.epochs.tolist() == [1, 1, 2, 1, 1]
    assert documents.identity.tolist() == [identity_of(i) for i in ("en-0", "en-1", "en-2", "zh-0", "zh-1")]
    assert documents.tokens(0).tolist() == [100, 101, 102, 103, 104]
    assert documents.tokens(2, start=1, length=2).tolist() == [109, 110]
    assert documents.tokens(4).tolist() == [202, 203, 204, 205, 206, 207]
    learned = documents.where(~documents.heldout)
    assert learned.tokens(2).tolist() == [200, 201]


def test_tokens_stay_in_the_store_until_they_are_asked_for(issued):
    store, manifest = issued(SHARDS)
    documents = read_documents(store, manifest)
    first, second = (manifest.shard(name + TOKENS).blob for name in SHARDS)
    for blob in (first, second):
        store.blob_path(blob).chmod(0o644)
    store.blob_path(second).write_bytes(b"damaged" * 4)
    in_place = documents.tokens(0)
    assert not in_place.flags.owndata and not in_place.flags.writeable  # the mapped file itself, no copy of it
    with pytest.raises(CorruptError, match=second):
        documents.tokens(3)


def test_an_index_that_reaches_beyond_its_tokens_is_refused(issued):
    rows, tokens = shard("en", "en", [5, 3], 0)
    with pytest.raises(CorruptError, match="en-1 reaches beyond"):
        read_documents(*issued({"part-00000": (rows, tokens[:-1])}))
