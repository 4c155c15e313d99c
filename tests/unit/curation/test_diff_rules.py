"""Two rule sets compared. Oracle: documents planted so that each side of each rule is known by construction."""

import random

import pytest

from tokenmill.curation.diff_rules import Decision, diff_rules, sample
from tokenmill.curation.rules import RuleSet
from tokenmill.errors import InputError

LOOSE = RuleSet.parse("en_loose", {"drop": {"length": {"low": 3}}})
STRICT = RuleSet.parse(
    "en_strict", {"normalise": ["citations"], "drop": {"length": {"low": 5}, "curly_brackets": {}, "hash_signs": {}}}
)
DOCUMENTS = [
    {"id": "both drop", "text": "one two"},
    {"id": "short", "text": "one two three four"},
    {"id": "template", "text": "one two three four {name}"},
    {"id": "clean", "text": "one two three four five six"},
    {"id": "cited", "text": "one two three [1] four five six"},
]


def test_each_document_is_counted_on_its_side_with_the_rule_that_decided():
    found = diff_rules(LOOSE, STRICT, DOCUMENTS)
    assert (found.compared, found.kept_by_both, found.dropped_by_both, found.texts_differ) == (5, 2, 1, 1)
    assert [change.id for change in found.changes] == ["short", "template"]
    assert found.changes[0].before == Decision() and found.changes[0].after == Decision("length", 4, "≥ 5 and ≤ 100000")
    assert found.reasons == {"only en_strict drops": {"length": 1, "curly_brackets": 1}, "only en_loose drops": {}}


def test_the_other_way_round_the_sides_are_swapped():
    there, back = diff_rules(LOOSE, STRICT, DOCUMENTS), diff_rules(STRICT, LOOSE, DOCUMENTS)
    assert [(c.id, c.after, c.before) for c in there.changes] == [(c.id, c.before, c.after) for c in back.changes]
    assert back.reasons == {"only en_loose drops": {}, "only en_strict drops": {"length": 1, "curly_brackets": 1}}
    assert diff_rules(STRICT, STRICT, DOCUMENTS).changes == []


def test_a_sample_is_the_same_whatever_the_order_and_a_part_of_a_larger_one():
    documents = [{"id": f"{n:x}", "text": ""} for n in range(200)]
    drawn = sample(documents, 20)
    random.Random(1).shuffle(documents)
    assert sample(documents, 20) == drawn and len({document["id"] for document in drawn}) == 20
    assert {d["id"] for d in drawn} < {d["id"] for d in sample(documents, 50)}
    assert len(sample(documents, 1000)) == 200
    with pytest.raises(InputError, match="no document"):
        sample([], 5)
