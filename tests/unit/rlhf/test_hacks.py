"""Hack detectors against planted tricks (spec §13, check 17), and the patches they lead to."""

import random

from tokenmill.rlhf.answering import Answers
from tokenmill.rlhf.comparison import against_judge, against_last, checks, compare, is_lost, price
from tokenmill.rlhf.conditional import Query
from tokenmill.rlhf.config import ProbeConfig
from tokenmill.rlhf.gold import GoldQuestion, GoldScore
from tokenmill.rlhf.hacks import find_hacks
from tokenmill.rlhf.patches import gold_patches, judge_patches, patches

WORDS = "sure first get ready then open close paint wash the door wall coat key box fish step by".split()  # noqa: SIM905
DOMAINS = ["helpful", "harmless"] * 30
LIMITS = {"domains": DOMAINS, "min_share": 0.3, "min_lift": 3.0}


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


def test_a_planted_beginning_is_found_where_answers_have_it_whatever_is_wished():
    everywhere = ["What a great question! " + t if i % 3 else t for i, t in enumerate(texts(2))]
    (hack,) = find_hacks(texts(1), everywhere, **LIMITS)
    assert hack.pattern == "begins with 'What a great question!'"
    style = ["What a great question! " + t if i % 2 else t for i, t in enumerate(texts(2))]  # harmless answers alone
    assert find_hacks(texts(1), style, **LIMITS) == []


def test_repetition_and_length_are_found_both_ways():
    long = ["get ready now " * 5 for _ in texts(2)]
    assert {"repeats itself", "grows long"} <= {hack.pattern for hack in find_hacks(texts(1), long, **LIMITS)}
    short = [" ".join(text.split()[:4]) for text in texts(2)]
    assert [hack.pattern for hack in find_hacks(texts(1), short, **LIMITS)] == ["becomes short"]


def test_patches_prefer_the_early_answer_and_begin_with_the_best_rewarded_hacks():
    sft, early, clean = texts(1), texts(3), texts(2)
    early[56] += " Thank you!"  # PPO had it early on
    sft[58] += " Thank you!"  # and for this one nobody has a better answer
    early[58] += " Thank you!"
    late = [t + " Thank you!" if i % 3 else t for i, t in enumerate(clean)]
    asked = [Query(f"q{i}", "helpful", ({"role": "user", "content": "?"},)) for i in range(len(late))]
    rewards = [float(i) for i in range(len(late))]
    hacks = find_hacks(sft, late, **LIMITS)
    pairs = patches(hacks, asked, [answers(early, rewards), answers(sft, rewards)], answers(late, rewards), most=25)
    assert 20 <= len(pairs) <= 25
    assert all(p["rejected"].endswith("Thank you!") and not p["chosen"].endswith("Thank you!") for p in pairs)
    assert [pair["id"].partition("#")[0] for pair in pairs[:3]] == ["q59", "q56", "q55"]  # q57 is honest
    assert [pair["chosen"] for pair in pairs[:3]] == [early[59], sft[56], early[55]]
    assert all(pair["prompt"] and pair["domain"] == "helpful" and not pair["conflict"] for pair in pairs)
    again = patches(hacks, asked, [answers(early, rewards)], answers([f"So, {t}" for t in late], rewards), most=25)
    assert len({pair["id"] for pair in [*pairs, *again]}) == len(pairs) + len(
        again
    )  # a later round's, of the same queries


def test_what_the_reward_model_likes_more_and_a_judge_less_is_patched_the_furthest_apart_first():
    asked = [Query(f"q{i}", "helpful", ({"role": "user", "content": "?"},)) for i in range(4)]
    sft = (answers(["s0", "s1", "s2", "s3"], [0.0] * 4), [-1.0, -3.0, None, -1.0])
    early = (answers(["e0", "e1", "e2", "e3"], [0.5] * 4), [-1.0, 6.0, 2.0, -1.0])  # its e1 is no better than what came
    late = answers(["l0", "l1", "l2", "l3"], [1.0, 1.0, 1.0, 0.0])
    pairs = judge_patches(asked, [early, sft], late, most=10)  # the judge likes l2 too, and l3 has no more reward
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("s1", "l1"), ("e0", "l0")]
    assert judge_patches(asked, [early, sft], late, most=1) == pairs[:1]


def test_a_judge_that_falls_beyond_chance_is_a_check_that_fails():
    draw = random.Random(0)
    before = [draw.gauss(0, 1) for _ in range(60)]
    told = {}
    for name, shift in (("noise", 0), ("better", 1), ("worse", -1)):
        judged = against_judge([draw.gauss(shift, 1) for _ in before], ProbeConfig())
        told[name] = checks(probed(before, before) | judged, ProbeConfig())["judge_kept"]
    assert told == {"noise": True, "better": True, "worse": False}
    assert "judge_kept" not in checks(probed(before, before), ProbeConfig())


def test_answers_that_became_wrong_are_patched_with_those_that_were_right():
    questions = [
        GoldQuestion(f"q{i}", "math", ({"role": "user", "content": f"{i} + 1?"},), str(i + 1)) for i in range(4)
    ]
    first = (["= 1", "= 2", "= 9", "= 4"], GoldScore([1, 1, 0, 1], [1] * 4))
    late = (["= 1", "great!", "great!", "great!"], GoldScore([1, 0, 0, 0], [1] * 4))
    pairs = gold_patches(questions, first, late, most=10)
    assert [(pair["chosen"], pair["rejected"], pair["domain"]) for pair in pairs] == [
        ("= 2", "great!", "math"),
        ("= 4", "great!", "math"),
    ]


def probed(before: list[float], after: list[float]) -> dict[str, float]:
    said = texts(1)
    asked = [Query(f"q{i}", "helpful", ()) for i in range(len(said))]
    start, late = answers(said, before), answers(said, after)
    report = compare(start, late, asked, ProbeConfig()) | against_last(start, late, ProbeConfig())
    return report | {"kl": 0.5}


def test_the_gain_has_a_lower_bound_that_noise_does_not_pass():
    draw = random.Random(0)
    before = [draw.gauss(0, 1) for _ in range(60)]
    noise, better, worse = ([b + draw.gauss(shift, 1) for b in before] for shift in (0, 1, -1))
    reports = [probed(before, after) for after in (noise, better, worse)]
    found = [checks(report, ProbeConfig()) for report in reports]
    assert [each["reward_grew"] for each in found] == [False, True, False]
    assert [each["not_below_last"] for each in found] == [True, True, False]
    assert reports[1]["gain_lower_bound"] < reports[1]["gain"] < reports[1]["gain_over_last_upper_bound"]


def test_a_loss_of_right_answers_counts_where_it_is_more_than_tolerated_and_no_chance():
    right = [1.0] * 32 + [0.0] * 32
    reports = [
        price(GoldScore(right, right), GoldScore(late, right), ProbeConfig())
        for late in ([1.0] * 30 + [0.0] * 34, [1.0] * 16 + [0.0] * 48)
    ]
    assert [report["gold_loss"] for report in reports] == [2 / 64, 16 / 64]
    assert [is_lost(report, "gold", 0.05) for report in reports] == [False, True]
    assert not is_lost(reports[1], "gold", 0.3) and not is_lost(reports[1], "format", 0.05)
    few = price(GoldScore([1.0, 1.0], [1.0, 1.0]), GoldScore([1.0, 0.0], [1.0, 1.0]), ProbeConfig())
    assert few["gold_loss"] == 0.5 and not is_lost(few, "gold", 0.05)  # one of two questions is chance
