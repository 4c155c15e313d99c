"""Preferences from conversations: contradicting pairs of one request, alike in length, told apart by the prompt alone."""

from tokenmill.rlhf.collect_preferences import PREFERRED, _by_request, _pairs
from tokenmill.rlhf.config import CollectPreferencesConfig
from tokenmill.rlhf.evaluate_reward_model import quality
from tokenmill.sft.requests import requests


def conversations(count: int):
    for number, (answers, _) in enumerate(zip(requests(seed=3), range(count), strict=False)):
        for style, record in enumerate(answers):
            yield record | {"id": f"requests/{number}#{style}", "source": "requests", "licence": "x"}


def collected(count: int = 40, garbled: float = 0.5):
    config = CollectPreferencesConfig(garbled_share=garbled)
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


def test_garbled_answers_have_the_same_words():
    garbled = [p for p in collected() if not p["conflict"]]
    assert garbled
    for pair in garbled:
        assert sorted(pair["chosen"].split()) == sorted(pair["rejected"].split())
        assert pair["chosen"] != pair["rejected"]


def test_a_request_with_one_answer_gives_no_pair():
    lone = [record for record in conversations(4) if record["style"] == PREFERRED["helpful"]]
    assert _by_request(lone) == {}


def test_without_prompts_conflicting_pairs_are_at_chance_and_never_flip():
    """Whatever a model prefers, it prefers it under both domains if it cannot tell them apart."""
    pairs = [p for p in collected() if p["conflict"]]
    scored = [(float(len(p["chosen"])), float(len(p["rejected"]))) for p in pairs]
    scored = [(c, r + 1e-3 * (p["chosen"] < p["rejected"])) for (c, r), p in zip(scored, pairs, strict=True)]
    measured = quality(pairs, scored)
    assert measured["flips"] == 0
    assert measured["conflict_accuracy"] <= 0.5

    knowing = [(1.0, -1.0) for _ in pairs]
    measured = quality(pairs, knowing)
    assert measured["flips"] == 1 and measured["accuracy"] == {"harmless": 1.0, "helpful": 1.0}
    assert measured["margin"] == 2.0
