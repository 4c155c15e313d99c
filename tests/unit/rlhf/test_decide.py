"""The stop rule as a table: what a round's numbers lead to."""

import pytest

from tokenmill.rlhf.config import DecideConfig, ProbeConfig
from tokenmill.rlhf.decide import rule
from tokenmill.rlhf.round_page import page

KEPT = dict.fromkeys(
    ("reward_grew", "not_below_last", "kl_within_limit", "length_kept", "gold_kept", "format_kept"), True
)
HACK = {"pattern": "ends in 'Thank you!'", "late": 0.6, "early": 0.0, "pairs": 60}


def report(gain=0.8, lower=0.5, hacks=(), **failed):
    limits = ProbeConfig()
    return {
        "gain": gain,
        "gain_lower_bound": lower,
        "gain_by_domain": {"helpful": gain},
        "gain_over_last": gain,
        "gain_over_last_lower_bound": lower,
        "gain_over_last_upper_bound": gain + 0.3,
        "kl": 5.9,
        "length_change": 0.1,
        **{f"{name}_{when}": 0.5 for name in ("gold", "format", "reward", "length") for when in ("before", "after")},
        "queries": 128,
        "checks": KEPT | failed,
        "limits": {n: getattr(limits, n) for n in ("max_kl", "max_length_change", "max_gold_loss", "max_format_loss")}
        | {"min_patches": 20},
        "hacks": list(hacks),
        "examples": [],
    }


@pytest.mark.parametrize(
    ("found", "accepted", "goes_on", "says"),
    [
        (report(), True, True, "gained +0.80 over the policy before it (at least +0.50) and keeps what is required"),
        (report(gain=0.1, lower=-0.1), True, False, "within chance, and no hack is left to mend"),
        (report(gain=0.1, lower=-0.1, hacks=[HACK]), True, True, "patches against: ends in 'Thank you!'"),
        (report(gain=0.1, lower=-0.1, hacks=[HACK | {"pairs": 0}]), True, False, "within chance"),
        (report(gain=0.1, lower=-0.1, reward_grew=False), False, False, "The gain over SFT is within chance"),
        (report(not_below_last=False), False, False, "Less reward than the policy before"),
        (report(kl_within_limit=False), False, False, "KL 5.9 nats an answer, more than the budget of 10"),
        (report(gold_kept=False), False, False, "Gold score 50% → 50%, a loss of more than 5.0%"),
        (report(format_kept=False, hacks=[HACK]), False, False, "(rlhf.probe.max_format_loss)"),
        (report(length_kept=False), True, True, "keeps what is required"),
    ],
)
def test_what_follows_from_a_round(found, accepted, goes_on, says):
    ruling = rule(found, DecideConfig())
    assert (ruling.accepted, ruling.goes_on) == (accepted, goes_on)
    assert says in ruling.reason


def test_what_is_required_and_what_ends_the_rounds_can_be_changed():
    lost = report(gold_kept=False, hacks=[HACK])
    assert rule(lost, DecideConfig(retry_refused=True)).goes_on
    assert not rule(lost, DecideConfig(retry_refused=True)).accepted
    assert not rule(report(gold_kept=False), DecideConfig(retry_refused=True)).goes_on  # nothing new would be learned
    assert rule(report(kl_within_limit=False), DecideConfig(required=("reward_grew",))).accepted
    assert rule(report(lower=-1.0), DecideConfig(needs_gain=False)).goes_on


def test_without_gold_questions_their_checks_are_not_asked_for():
    found = report()
    del found["checks"]["gold_kept"], found["checks"]["format_kept"]
    assert rule(found, DecideConfig()).accepted


def test_the_page_tells_the_decision_the_numbers_and_the_pairs_and_escapes_what_models_say():
    found = report(hacks=[HACK], kl_within_limit=False) | {
        "examples": [{"domain": "helpful", "prompt": "Hi?", "before": "<b>no</b>", "after": "yes Thank you!"}]
    }
    pair = {
        "template": "patch: ends in 'Thank you!'",
        "prompt": [{"content": "How?"}],
        "chosen": "so",
        "rejected": "<i>",
    }
    log = [{"reward": -1.0 + i / 10, "kl": i / 5, "entropy": 2.0} for i in range(9)]
    html = page("round 1", found, rule(found, DecideConfig()), log, [pair, pair | {"template": "patch: other"}])
    assert "Policy refused, the rounds end." in html and "more than the budget of 10" in html
    assert "in 60% of the late answers" in html and "60 pairs against it" in html
    assert html.count("How?") == 1 and "&lt;b&gt;no&lt;/b&gt;" in html and "<b>no" not in html
    assert "Reward an answer" in html and "Entropy" in html and "Value loss" not in html
    assert "http" not in html
