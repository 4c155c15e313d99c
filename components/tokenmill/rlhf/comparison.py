"""Two policies on the same queries: gains with their bounds, and what was paid for them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenmill.rlhf.answering import Answers
from tokenmill.rlhf.conditional import Query
from tokenmill.rlhf.config import ProbeConfig
from tokenmill.rlhf.gold import GoldScore


def compare(before: Answers, after: Answers, asked: Sequence[Query], config: ProbeConfig) -> dict[str, Any]:
    """Mean rewards, the gain with its lower bound, and lengths."""
    gains = [late - early for early, late in zip(before.rewards, after.rewards, strict=True)]
    length_before, length_after = (mean([len(ids) for ids in answers.ids]) for answers in (before, after))
    return {
        "reward_before": mean(before.rewards),
        "reward_after": mean(after.rewards),
        "gain": mean(gains),
        "gain_lower_bound": lower_bound(gains, config.seed),
        "gain_by_domain": {
            domain: mean([gain for gain, query in zip(gains, asked, strict=True) if query.domain == domain])
            for domain in sorted({query.domain for query in asked})
        },
        "length_before": length_before,
        "length_after": length_after,
        "length_change": length_after / length_before - 1,
        "queries": len(asked),
    }


def against_last(last: Answers, late: Answers, config: ProbeConfig) -> dict[str, float]:
    """The gain over the policy that the rounds before handed on, under this round's reward model.

    Rewards of two rounds' own reward models are on two scales: only one judge of both policies can tell.
    """
    gains = [now - then for then, now in zip(last.rewards, late.rewards, strict=True)]
    return {
        "gain_over_last": mean(gains),
        "gain_over_last_lower_bound": lower_bound(gains, config.seed),
        "gain_over_last_upper_bound": -lower_bound([-gain for gain in gains], config.seed),
    }


def against_judge(gains: Sequence[float], config: ProbeConfig) -> dict[str, float]:
    """The mean gain over SFT under the held-out judge, with its bounds."""
    return {
        "judge_gain": mean(gains),
        "judge_gain_lower_bound": lower_bound(gains, config.seed),
        "judge_gain_upper_bound": -lower_bound([-gain for gain in gains], config.seed),
    }


def price(before: GoldScore, after: GoldScore, config: ProbeConfig) -> dict[str, Any]:
    """Gold and format score before and after RLHF; what was lost, and at least how much of it is no chance."""
    report: dict[str, Any] = {"gold_questions": len(before.right)}
    for name, then, now in (("gold", before.right, after.right), ("format", before.obeyed, after.obeyed)):
        losses = [a - b for a, b in zip(then, now, strict=True)]
        report |= {f"{name}_before": mean(then), f"{name}_after": mean(now)}
        report |= {f"{name}_loss": mean(losses), f"{name}_loss_lower_bound": lower_bound(losses, config.seed)}
    return report


def checks(report: Mapping[str, Any], config: ProbeConfig) -> dict[str, bool]:
    """What the round promised, check by check; without gold questions or a judge there is nothing to say of them."""
    found = {
        "reward_grew": report["gain_lower_bound"] > 0,
        "not_below_last": report["gain_over_last_upper_bound"] >= 0,
        "kl_within_limit": report["kl"] <= config.max_kl,
        "length_kept": abs(report["length_change"]) <= config.max_length_change,
    }
    if "judge_gain" in report:
        found["judge_kept"] = report["judge_gain_upper_bound"] >= 0
    for name, tolerated in (("gold", config.max_gold_loss), ("format", config.max_format_loss)):
        if f"{name}_loss" in report:
            found[f"{name}_kept"] = not is_lost(report, name, tolerated)
    return found


def is_lost(report: Mapping[str, Any], name: str, tolerated: float) -> bool:
    """Whether the loss of a score is more than is tolerated, and no chance: few questions must not stop a round."""
    return bool(report[f"{name}_loss"] > tolerated and report[f"{name}_loss_lower_bound"] > 0)


def lower_bound(differences: Sequence[float], seed: int, resamples: int = 2000) -> float:
    """The 2.5th percentile of the mean over paired bootstrap resamples."""
    import numpy

    values = numpy.asarray(differences)
    picks = numpy.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    return float(numpy.percentile(values[picks].mean(axis=1), 2.5))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
