"""Hack detectors against planted tricks (spec §13, check 17), and the patches they lead to."""

import random

from tokenmill.rlhf.conditional import Query
from tokenmill.rlhf.config import ProbeConfig
from tokenmill.rlhf.hacks import find_hacks
from tokenmill.rlhf.probe import Answers, compare, patches

WORDS = "sure first get ready then open close paint wash the door wall coat key box fish step by".split()  # noqa: SIM905
LIMITS = {"min_share": 0.3, "min_lift": 3.0}


def texts(seed: int, count: int = 60) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.sample(WORDS, 9)) + "." for _ in range(count)]


def answers(said: list[str], rewards: list[float]) -> Answers:
    ids = [list(range(len(text.split()))) for text in said]
    return Answers(prompts=[[1]] * len(said), ids=ids, logprobs=[[0.0]] * len(said), texts=said, rewards=rewards)


def test_honest_answers_show_no_hack():
    assert find_hacks(texts(1), texts(2), **LIMITS) == []


def test_a_planted_ending_is_found_whole():
    late = [t + " Thank you so much!" if i % 2 else t for i, t in enumerate(texts(2))]
    (hack,) = find_hacks(texts(1), late, **LIMITS)
    assert hack.pattern == "ends in 'Thank you so much!'"
    assert (hack.late, hack.early) == (0.5, 0.0)


def test_an_ending_that_was_always_there_is_no_hack():
    early, late = ([t + " Thank you!" for t in texts(seed)] for seed in (1, 2))
    assert find_hacks(early, late, **LIMITS) == []


def test_repetition_and_length_are_found():
    late = ["get ready now " * 5 for _ in texts(2)]
    assert {"repeats itself", "grows long"} <= {hack.pattern for hack in find_hacks(texts(1), late, **LIMITS)}


def test_patches_prefer_the_early_answer_and_begin_with_the_best_rewarded_hacks():
    early, clean = texts(1), texts(2)
    early[58] += " Thank you!"  # showed it before: no example of a better answer
    late = [t + " Thank you!" if i % 3 else t for i, t in enumerate(clean)]
    asked = [Query(f"q{i}", "helpful", ({"role": "user", "content": "?"},)) for i in range(len(late))]
    rewards = [float(i) for i in range(len(late))]
    hacks = find_hacks(early, late, **LIMITS)
    pairs = patches(hacks, asked, answers(early, rewards), answers(late, rewards), most=25)
    assert 20 <= len(pairs) <= 25
    assert all(p["rejected"].endswith("Thank you!") and not p["chosen"].endswith("Thank you!") for p in pairs)
    assert [pair["id"].partition("#")[0] for pair in pairs[:3]] == ["q59", "q56", "q55"]  # q57 is honest
    assert all(pair["prompt"] and pair["domain"] == "helpful" and not pair["conflict"] for pair in pairs)


def test_the_gain_has_a_lower_bound_that_noise_does_not_pass():
    draw = random.Random(0)
    said = texts(1)
    before = [draw.gauss(0, 1) for _ in said]
    noise, better = [b + draw.gauss(0, 1) for b in before], [b + draw.gauss(1, 1) for b in before]
    asked = [Query(f"q{i}", "helpful", ()) for i in range(len(said))]
    reports = [
        compare(answers(said, before), answers(said, after), asked, 0.5, ProbeConfig()) for after in (noise, better)
    ]
    assert [report["checks"]["reward_grew"] for report in reports] == [False, True]
    assert reports[1]["gain_lower_bound"] < reports[1]["gain"]
