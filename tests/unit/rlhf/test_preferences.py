"""Preferences from conversations: contradicting pairs of one request, told apart by the prompt alone."""

import math
import random
from collections import Counter
from itertools import islice

import pytest

from tokenmill.rlhf.collect_preferences import PREFERRED, _broken, _by_request, _pairs, _query
from tokenmill.rlhf.config import CollectPreferencesConfig, EvaluateRewardModelConfig
from tokenmill.rlhf.evaluate_reward_model import calibration, checks, quality
from tokenmill.sft.requests import requests


def conversations(count: int, one_sided: float = 0.0):
    for number, answers in enumerate(islice(requests(3, one_sided), count)):
        for record in answers:
            yield record | {"id": f"requests/{number}#{record['style']}", "source": "requests"}


def collected(count: int = 40):
    config = CollectPreferencesConfig(broken_share=0.5)
    return list(_pairs(list(_by_request(conversations(count)).values()), config))


def test_the_same_two_answers_are_wanted_in_opposite_order():
    conflicts = [p for p in collected() if p["conflict"]]
    assert len(conflicts) == 80
    by_request: dict = {}
    for pair in conflicts:
        by_request.setdefault(pair["id"].partition("#")[0], {})[pair["domain"]] = pair
    for pair in by_request.values():
        helpful, harmless = pair["helpful"], pair["harmless"]
        assert (helpful["chosen"], helpful["rejected"]) == (harmless["rejected"], harmless["chosen"])
        assert helpful["prompt"] == harmless["prompt"]
        assert helpful["prompt"][-1]["role"] == "user"


def test_a_broken_answer_begins_and_ends_as_it_did_and_is_another():
    pairs = [p for p in collected() if not p["conflict"]]
    assert pairs
    lengths = Counter()
    for pair in pairs:
        chosen, rejected = pair["chosen"].split(), pair["rejected"].split()
        assert (rejected[0], rejected[-1]) == (chosen[0], chosen[-1])
        assert set(rejected) <= set(chosen) and rejected != chosen
        lengths[(len(rejected) > len(chosen)) - (len(rejected) < len(chosen))] += 1
    assert min(lengths[-1], lengths[0], lengths[1]) > len(pairs) / 6  # missing, in disorder, said twice


@pytest.mark.parametrize("text", ["one", "one two", "a b c", "x x x x", "Sure, first get ready, then go."])
def test_any_answer_can_be_broken(text):
    assert all(_broken(text, random.Random(seed)) != text for seed in range(20))


def test_a_request_with_one_answer_is_still_a_query_of_its_domain():
    asked = _by_request(conversations(60, one_sided=0.5))
    assert len(asked) == 60
    lone = [next(iter(styles.values())) for styles in asked.values() if len(styles) == 1]
    assert 15 < len(lone) < 45
    assert all(record["style"] == PREFERRED[record["domain"]] for record in lone)  # the fitting answer
    queries = [_query(styles) for styles in asked.values()]
    assert {query["domain"] for query in queries} == set(PREFERRED)
    assert all([message["role"] for message in query["messages"]] == ["user"] for query in queries)


def test_without_prompts_conflicting_pairs_are_at_chance_and_never_flip():
    """Whatever a model prefers, it prefers it under both domains if it cannot tell them apart."""
    pairs = [p for p in collected() if p["conflict"]]
    taste = {text: float(rank) for rank, text in enumerate(sorted({p["chosen"] for p in pairs}))}
    measured = quality(pairs, [(taste[p["chosen"]], taste[p["rejected"]]) for p in pairs])
    assert measured["flips"] == 0
    assert measured["conflict_accuracy"] == 0.5

    knowing = [(1.0, -1.0) for _ in pairs]
    measured = quality(pairs, knowing)
    assert measured["flips"] == 1 and measured["accuracy"] == {"harmless": 1.0, "helpful": 1.0}
    assert measured["margin"] == 2.0
    assert measured["domains"]["helpful"] == calibration([2.0] * 40) | {"conflicts": 40, "conflict_accuracy": 1.0}


def test_controls_must_fail_where_pairs_conflict_and_nothing_is_asked_where_none_do():
    pairs = [p for p in collected() if p["conflict"]]
    right, taste = (
        [(1.0, -1.0)] * len(pairs),
        [(p["chosen"] > p["rejected"], p["chosen"] < p["rejected"]) for p in pairs],
    )
    knowing, blind = quality(pairs, right), quality(pairs, taste)
    config = EvaluateRewardModelConfig()
    assert set(checks(knowing, blind, blind, config).values()) == {True}
    lost = {name for name, kept in checks(blind, knowing, knowing, config).items() if not kept}
    assert lost == {"accurate", "flips_with_prompt", "needs_prompt", "control_at_chance"}
    agreed = quality([{"id": p["id"], "domain": p["domain"]} for p in pairs], right)  # a user's own, of no conflicts
    assert checks(agreed, agreed, agreed, config) == {"accurate": True, "within_bound": True}
    assert (
        agreed["flips"] is agreed["domains"]["helpful"]["conflict_accuracy"] is None
    )  # not a failure, nothing to tell


def test_a_models_sureness_is_held_to_how_often_it_is_right():
    """Of ten pairs with P = 0.8 eight are right: no error. Were it as sure and right half the time, 0.3 of error."""
    margin = math.log(0.8 / 0.2)
    assert calibration([margin] * 8 + [-margin] * 2)["ece"] == pytest.approx(0.0, abs=1e-12)
    assert calibration([margin] * 5 + [-margin] * 5)["ece"] == pytest.approx(0.3)
    unsure = math.log(0.6 / 0.4)  # another bin, all of it right: 0.4 of error there
    mixed = calibration([margin] * 8 + [-margin] * 2 + [unsure] * 30)
    assert mixed["ece"] == pytest.approx(0.3) and mixed["pairs"] == 40
    assert [one["pairs"] for one in mixed["curve"]] == [30, 10]
    assert mixed["accuracy"] == pytest.approx(38 / 40)
    assert mixed["margin"] == pytest.approx((6 * margin + 30 * unsure) / 40)


def test_sureness_at_its_ends_has_a_bin():
    assert calibration([0.0, 50.0])["ece"] == pytest.approx(0.25)  # undecided is wrong, and half sure
