"""What a reward model is worth on held-out pairs, and what its controls are worth: shuffled labels, no prompts."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.records import Record
from tokenmill.rlhf.config import EvaluateRewardModelConfig
from tokenmill.steps import StepContext, step

if TYPE_CHECKING:
    from tokenmill.rlhf.pairs import Pair

PER_DOMAIN = ("accuracy", "margin", "ece")
REPORT = "reward_model.json"
KINDS = {"heldout": "preferences", "reward_model": "weights", "control": "weights", "tokenizer": "tokenizer"}


@step("rlhf.evaluate_reward_model", version=4, reproducible="same_platform", libraries=("torch",), kinds=KINDS)
def evaluate_reward_model(
    config: EvaluateRewardModelConfig,
    heldout: Manifest,
    reward_model: Manifest,
    tokenizer: Manifest,
    control: Manifest | None,
    ctx: StepContext,
) -> Draft:
    """Accuracy and calibration a domain, and how often a conflicting pair's order flips with the prompt.

    Two controls must fail: the same model without prompts, which cannot flip, and `control`, trained on shuffled
    labels, which must be at chance where pairs conflict.
    """
    from tokenmill.model.tokenizer import Tokenizer
    from tokenmill.rlhf.pairs import encode_pairs, sound_pairs

    given, words = list(ctx.records(heldout)), Tokenizer.load(ctx.files(tokenizer))
    records, pairs, aside = sound_pairs(given, words, config.max_length)
    aside.require_few(len(given), config.max_set_aside, "rlhf.evaluate_reward_model.max_set_aside", ctx.log)
    if not records:
        raise InputError("rlhf.evaluate_reward_model: there are no held-out pairs to judge by")
    folder = ctx.files(reward_model)
    measured = quality(records, scores(folder, pairs))
    unconditional = encode_pairs(records, words, config.max_length, conditional=False)
    without = quality(records, scores(folder, unconditional))
    shuffled = quality(records, scores(ctx.files(control), pairs)) if control else None
    held = checks(measured, without, shuffled, config)
    report: dict[str, Any] = {"with_prompts": measured, "without_prompts": without, "checks": held} | aside.facts()
    if shuffled:
        report["shuffled_labels"] = shuffled
    told = {f"{name}/{domain}": values[name] for domain, values in measured["domains"].items() for name in PER_DOMAIN}
    if measured["flips"] is not None:
        told["flips"] = measured["flips"]
    ctx.metrics(told)
    ctx.log.info("reward model", **told, checks=held)
    return ctx.write_json("evaluation", REPORT, report)


def checks(
    measured: Mapping[str, Any],
    without: Mapping[str, Any],
    shuffled: Mapping[str, Any] | None,
    config: EvaluateRewardModelConfig,
) -> dict[str, bool]:
    """What the model promised and what its controls must fail; where no pairs conflict, nothing is said of conflicts."""
    found = {
        "accurate": min(measured["accuracy"].values()) >= config.min_accuracy,
        "within_bound": measured["largest_score"] < config.bound,
    }
    if measured["flips"] is None:
        return found
    found["flips_with_prompt"] = measured["flips"] >= config.min_flips
    found["needs_prompt"] = without["flips"] < config.min_flips
    if shuffled:
        found["control_at_chance"] = abs(shuffled["conflict_accuracy"] - 0.5) <= config.chance_margin
    return found


def scores(folder: Path, pairs: Sequence["Pair"]) -> list[tuple[float, float]]:
    """(chosen, rejected) scores of every pair."""
    from tokenmill.model.folder import load_model
    from tokenmill.model.modeling import InternLM2ForRewardModel
    from tokenmill.rlhf.scoring import reward_scores

    model = load_model(folder, InternLM2ForRewardModel).eval()
    flat = reward_scores(model, [side for pair in pairs for side in pair])
    return [(float(chosen), float(rejected)) for chosen, rejected in flat.view(-1, 2)]


def quality(records: Sequence[Record], scored: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Accuracy and calibration a domain, accuracy on conflicting pairs, share of requests on which both are right (`flips`).

    Of two contradicting pairs with equal scores, exactly one is right: only a model that heeds the prompt has both.
    """
    margins: defaultdict[str, list[float]] = defaultdict(list)
    conflicts: defaultdict[str, list[bool]] = defaultdict(list)
    disputed: defaultdict[str, list[bool]] = defaultdict(list)
    for record, (chosen, rejected) in zip(records, scored, strict=True):
        margins[record["domain"]].append(chosen - rejected)
        if record.get("conflict"):
            conflicts[record["id"].partition("#")[0]].append(chosen > rejected)
            disputed[record["domain"]].append(chosen > rejected)
    flat = [right for both in conflicts.values() for right in both]
    domains = {
        domain: calibration(values)
        | {
            "conflicts": len(disputed[domain]),
            "conflict_accuracy": _share(disputed[domain]) if disputed[domain] else None,
        }
        for domain, values in sorted(margins.items())
    }
    return {
        "accuracy": {domain: values["accuracy"] for domain, values in domains.items()},
        "domains": domains,
        "margin": sum(chosen - rejected for chosen, rejected in scored) / len(scored),
        "conflict_accuracy": _share(flat) if flat else None,
        "flips": _share([all(both) for both in conflicts.values()]) if conflicts else None,
        "largest_score": max(abs(score) for pair in scored for score in pair),
    }


def calibration(margins: Sequence[float], bins: int = 10) -> dict[str, Any]:
    """How right a model is, and whether it knows: of pairs with P = σ(margin) near 0.8, 80% should be in order.

    A pair's confidence is max(P, 1 − P), from 0.5 to 1 in `bins` equal bins. The expected calibration error is the mean
    distance between a bin's confidence and its accuracy, weighted by pairs (Guo et al. 2017, §3).
    """
    right = [margin > 0 for margin in margins]
    confidence = [1 / (1 + math.exp(-abs(margin))) for margin in margins]
    places: defaultdict[int, list[int]] = defaultdict(list)
    for index, sure in enumerate(confidence):
        places[min(int((sure - 0.5) * 2 * bins), bins - 1)].append(index)
    curve = [
        {
            "confidence": sum(confidence[i] for i in members) / len(members),
            "accuracy": _share([right[i] for i in members]),
            "pairs": len(members),
        }
        for _, members in sorted(places.items())
    ]
    return {
        "pairs": len(margins),
        "accuracy": _share(right),
        "margin": sum(margins) / len(margins),
        "ece": sum(one["pairs"] * abs(one["confidence"] - one["accuracy"]) for one in curve) / len(margins),
        "curve": curve,
    }


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right)
