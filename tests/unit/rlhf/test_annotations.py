"""Blind pairs out, labels in: agreement against published numbers, majorities by hand, every bad row named."""

import time
from collections import Counter

import orjson
import pytest
from pico import Lab

from tokenmill.errors import InputError
from tokenmill.rlhf import annotation_store
from tokenmill.rlhf.annotation_formats import read, write
from tokenmill.rlhf.annotations import Label, agreement, latest, pairs_of, preferences, votes, wins

BATCH = "b" * 64
TIME = "2026-03-14T09:15:00Z"
RESPONSES = [
    {
        "id": f"q{i}",
        "domain": "helpful",
        "prompt": [{"role": "user", "content": f"How {i}?"}],
        "answers": {"policy": f"late {i}", "sft": f"first {i}", "before": f"late {i} "},
    }
    for i in range(40)
]
PAIRS = {pair.id: pair for pair in pairs_of(BATCH, RESPONSES)}


def known(batch):
    if batch != BATCH:
        raise InputError(f"there are no responses {batch[:12]!r}")
    return PAIRS


def label(pair, annotator, choice, time=TIME):
    return Label(pair, BATCH, annotator, time, choice)


def test_pairs_are_of_different_answers_and_no_side_tells_whose_it_is():
    assert len(PAIRS) == 80  # policy and before say the same: two pairs a query, not three
    sides = Counter(pair.models[0] for pair in PAIRS.values() if set(pair.models) == {"policy", "sft"})
    assert 10 < sides["policy"] < 30
    assert list(PAIRS) == [pair.id for pair in pairs_of(BATCH, RESPONSES)]
    assert pairs_of("c" * 64, RESPONSES)[0].id not in PAIRS
    assert "policy" not in write(list(PAIRS.values()), "jsonl").decode()
    assert ["policy" in pair.models for pair in PAIRS.values()] == [True] * 40 + [False] * 40


def test_agreement_is_krippendorffs_alpha_of_his_own_example():
    """Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", example C: nominal data, alpha 0.743."""
    units = ["aaa", "bbcb", "cccc", "cccc", "bbbb", "abcd", "dddd", "aaba", "bbbb", "eee", "aa"]
    assert agreement(Counter(unit) for unit in units) == pytest.approx(0.743, abs=5e-4)


def test_agreement_says_nothing_where_there_is_nothing_to_compare():
    assert agreement([Counter("a"), Counter("b")]) is None and agreement([Counter("aa")]) is None
    assert agreement([Counter("ab")] * 50) == pytest.approx(-0.98, abs=0.03)
    assert agreement([Counter("aa"), Counter("bb")]) == 1


def test_majorities_win_ties_and_conflicts_give_no_preference_and_skips_are_no_votes():
    first, second, third, fourth, fifth = list(PAIRS)[:5]
    labels = [
        *(label(first, who, choice) for who, choice in (("x", "a"), ("y", "a"), ("z", "b"))),
        *(label(second, who, choice) for who, choice in (("x", "a"), ("y", "b"))),
        *(label(third, who, choice) for who, choice in (("x", "tie"), ("y", "tie"), ("z", "b"))),
        label(fourth, "x", "skip"),
        label(fifth, "x", "b"),
    ]
    records, dropped = preferences(PAIRS, votes(labels), min_labels=1)
    assert {r["id"]: (r["chosen"], r["rejected"]) for r in records} == {
        f"annotated/{first}": (PAIRS[first].a, PAIRS[first].b),
        f"annotated/{fifth}": (PAIRS[fifth].b, PAIRS[fifth].a),
    }
    assert dropped == {"no majority": 1, "tie": 1}
    assert preferences(PAIRS, votes(labels), min_labels=2)[1] == {"no majority": 1, "tie": 1, "too few labels": 1}
    assert sum(sum(cast.values()) for cast in wins(PAIRS, votes(labels)).values()) == 9


def test_who_thinks_again_has_one_label():
    pair = next(iter(PAIRS))
    labels = [label(pair, "x", "a", "2026-03-15T00:00:00+00:00"), label(pair, "x", "b", "2026-03-14T00:00:00+00:00")]
    assert [one.choice for one in latest(labels)] == ["a"]


def filled(form, pair, choice="a", annotator="eva@example.org"):
    """A file of one format as its tool gives it back."""
    (row,) = orjson.loads(write([pair], form)) if form != "jsonl" else [orjson.loads(write([pair], form))]
    if form == "jsonl":
        return orjson.dumps(row | {"choice": choice, "annotator": annotator, "time": TIME})
    if form == "label-studio":
        result = [{"type": "choices", "from_name": "choice", "to_name": "prompt", "value": {"choices": [choice]}}]
        told = {
            "completed_by": {"id": 3, "email": annotator},
            "created_at": TIME,
            "result": result,
            "was_cancelled": False,
        }
        skipped = told | {"result": [], "was_cancelled": True, "completed_by": 7}
        return orjson.dumps([row | {"id": 1, "annotations": [told, skipped]}])
    return orjson.dumps(
        [row | {"responses": {"choice": [{"value": choice, "user_id": annotator}]}, "status": "completed"}]
    )


@pytest.mark.parametrize("form", ["jsonl", "label-studio", "argilla"])
def test_every_format_comes_back_as_the_same_label_and_no_name_comes_in(form):
    pair = list(PAIRS.values())[3]
    labels = read(filled(form, pair), "file", known, lambda name: f"annotator-{len(name):08x}")
    assert (labels[0].pair, labels[0].choice, labels[0].annotator) == (pair.id, "a", "annotator-0000000f")
    assert labels[0].batch == BATCH and "eva" not in str(labels)
    assert form == "argilla" or labels[0].time == "2026-03-14T09:15:00+00:00"
    assert [one.choice for one in labels[1:]] == (["skip"] if form == "label-studio" else [])


def test_what_nobody_has_labelled_yet_is_no_label():
    for form in ("jsonl", "label-studio", "argilla"):
        assert read(write(list(PAIRS.values())[:3], form), "file", known, str) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"choice": "left"}, "labels.jsonl line 2: choice 'left' is none of a, b, tie, skip"),
        ({"annotator": None}, "line 2: no annotator"),
        ({"time": "yesterday"}, "line 2: time 'yesterday' is no ISO 8601 time"),
        ({"time": None}, "line 2: time None is no ISO 8601 time"),
        ({"id": "0123456789abcdef"}, f"line 2: pair '0123456789abcdef' is none of batch {BATCH[:12]}"),
        ({"batch": "d" * 64}, "line 2: there are no responses 'dddddddddddd'"),
        ({"a": "something else"}, "line 2: answer 'a' of pair"),
    ],
)
def test_a_row_that_cannot_be_taken_is_named_and_nothing_is_imported(change, said):
    good, other = list(PAIRS.values())[:2]
    row = orjson.loads(filled("jsonl", other)) | change
    with pytest.raises(InputError) as refused:
        read(filled("jsonl", good) + b"\n" + orjson.dumps(row), "labels.jsonl", known, str)
    assert said in str(refused.value) and "Nothing was imported" in str(refused.value)


def test_broken_files_are_one_line():
    for data, said in (
        (b'{"id": ', "labels line 1: not JSON"),
        (b"[{]", "labels: not JSON"),
        (b"7", "labels line 1: not an"),
    ):
        with pytest.raises(InputError, match=said):
            read(data, "labels", known, str)


def test_a_retirement_that_was_killed_neither_counts_twice_nor_loses(tmp_path, monkeypatch):
    """Killed after its first object was written; a longer export of the same labels comes before it is run again."""
    lab = Lab(tmp_path)
    said = [
        {"id": f"q{i}", "domain": "helpful", "prompt": [], "answers": {"sft": "s", "policy": "p"}} for i in range(2)
    ]
    batch = lab.issue("responses", {"part-00000.jsonl.zst": said}).digest
    first, second = (
        Label(pair, batch, "annotator-00000001", TIME, "a") for pair in annotation_store.batch_pairs(lab.store, batch)
    )
    annotation_store.add(lab.store, [first])
    with monkeypatch.context() as killed:
        create = lab.store.backend.create

        def once(key, data):
            if len(list(lab.store.backend.list("annotations/counted/"))):
                raise KeyboardInterrupt
            return create(key, data)

        def never(key):
            raise KeyboardInterrupt

        killed.setattr(lab.store.backend, "create", once)
        killed.setattr(lab.store.backend, "delete", never)
        with pytest.raises(KeyboardInterrupt):
            annotation_store.retire(lab.store, days=0, now=later())
    annotation_store.add(lab.store, [first, second])
    for _ in range(2):
        assert annotation_store.labelled(lab.store).counts == {first.pair: {"a": 1}, second.pair: {"a": 1}}
        annotation_store.retire(lab.store, days=0, now=later())
    assert list(lab.store.backend.list("annotations/raw/")) == []


@pytest.mark.parametrize("again", [TIME, "2026-05-01T00:00:00+00:00"])  # a later one as Argilla's, which tells none
def test_labels_that_come_again_after_their_names_were_dropped_do_not_count_twice(tmp_path, again):
    lab = Lab(tmp_path)
    said = [
        {"id": f"q{i}", "domain": "helpful", "prompt": [], "answers": {"sft": f"s{i}", "policy": f"p{i}"}}
        for i in range(3)
    ]
    batch = lab.issue("responses", {"part-00000.jsonl.zst": said}).digest
    pairs = list(annotation_store.batch_pairs(lab.store, batch))

    def imported(which, time=TIME):
        labels = [
            Label(pair, batch, annotation_store.pseudonym(lab.store, who), time, "a")
            for pair in which
            for who in ("eva", "tom")
        ]
        return annotation_store.add(lab.store, labels)

    imported(pairs[:2])
    assert annotation_store.retire(lab.store, days=0, now=later()) == 1
    imported(pairs, again)  # the same labels, and a new pair's
    for _ in range(2):
        found = annotation_store.labelled(lab.store)
        assert {pair: dict(cast) for pair, cast in found.counts.items() if cast} == {pair: {"a": 2} for pair in pairs}
        annotation_store.retire(lab.store, days=0, now=later())
    kept = b"".join(lab.store.backend.get(e.key) for e in lab.store.backend.list("annotations/"))
    assert b"annotator-" not in kept


def later():
    return time.time() + 60
