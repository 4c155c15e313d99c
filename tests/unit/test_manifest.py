"""Two digests: what an artifact is, and how this run came to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.errors import CorruptError, InputError
from tokenmill.manifest import Draft, Manifest, Shard, canonical


def draft(**changes):
    shard = Shard(name="a.jsonl.zst", blob="b" * 64, content="c" * 64, size=3, records=1)
    return Draft(**{"kind": "corpus", "shards": (shard,), "counts": {"records": 1}} | changes)


def issue(of=None, **changes):
    how = {"parents": {"sources": ("p" * 64,)}, "step": "curation.ingest", "version": 1, "config": {}} | changes
    return Manifest.issue(of or draft(), **how)


def test_content_ignores_how_bytes_are_stored_and_where_they_came_from():
    again = draft(
        shards=(Shard(name="a.jsonl.zst", blob="d" * 64, content="c" * 64, size=9, records=1),), facts={"x": 1}
    )
    assert again.content == draft().content
    assert issue(parents={}).content == draft().content


@pytest.mark.parametrize(
    "changes",
    [
        {"parents": {"sources": ("q" * 64,)}},
        {"parents": {"other": ("p" * 64,)}},
        {"step": "x.y"},
        {"version": 2},
        {"config": {"a": 1}},
    ],
)
def test_digest_moves_with_everything_that_lineage_is_made_of(changes):
    assert issue(**changes).digest != issue().digest


def test_digest_covers_facts_and_content_does_not():
    licensed, other = issue(draft(facts={"licence": "MIT"})), issue(draft(facts={"licence": "GPL-3.0"}))
    assert licensed.content == other.content and licensed.digest != other.digest


def test_observations_are_hashed_nowhere():
    assert issue(observed={"host": "a"}).digest == issue(observed={"host": "b"}).digest


def test_stored_manifest_comes_back_whole():
    manifest = issue(observed={"host": "a"})
    assert Manifest.from_json(manifest.to_json(), expected=manifest.digest) == manifest


def test_an_altered_manifest_is_refused():
    data = issue().to_json().replace(b'"records":1', b'"records":2')
    with pytest.raises(CorruptError, match="does not match its digest"):
        Manifest.from_json(data)


def test_a_newer_schema_is_refused_by_name():
    data = issue().to_json().replace(b'"schema_version":"1.0"', b'"schema_version":"2.0"')
    with pytest.raises(InputError, match="schema 2.0 is newer"):
        Manifest.from_json(data)


def test_two_shards_of_one_name_are_refused():
    with pytest.raises(ValueError, match="duplicate shard names"):
        issue(draft(shards=draft().shards * 2))


@given(st.dictionaries(st.text(), st.recursive(st.integers(-(2**53), 2**53) | st.text() | st.booleans(), st.lists)))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value):
    assert canonical(value) == canonical(dict(reversed(list(value.items()))))
