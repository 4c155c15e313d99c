"""What a reward model is worth on held-out pairs, and what its controls are worth: shuffled labels, no prompts."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenmill.manifest import Draft, Manifest
from tokenmill.records import Record
from tokenmill.rlhf.config import EvaluateRewardModelConfig
from tokenmill.steps import StepContext, step

REPORT = "reward_model.json"
KINDS = {"heldout": "preferences", "reward_model": "weights", "control": "weights", "tokenizer": "tokenizer"}


@step("rlhf.evaluate_reward_model", version=1, reproducible="same_platform", libraries=("torch",), kinds=KINDS)
def evaluate_reward_model(
    config: EvaluateRewardModelConfig,
    heldout: Manifest,
    reward_model: Manifest,
    tokenizer: Manifest,
    control: Manifest | None,
    ctx: StepContext,
) -> Draft:
    """Accuracy a domain, and how often a conflicting pair's order flips with the prompt.

    Two controls must fail: the same model without prompts, which cannot flip, and `control`, trained on shuffled
    labels, which must be at chance where pairs conflict.
    """
    from tokenmill.model.tokenizer import Tokenizer

    records, words = list(ctx.records(heldout)), Tokenizer.load(ctx.files(tokenizer))
    folder = ctx.files(reward_model)
    measured = quality(records, scores(folder, records, words, config.max_length))
    without = quality(records, scores(folder, records, words, config.max_length, conditional=False))
    checks = {
        "accurate": min(measured["accuracy"].values()) >= config.min_accuracy,
        "flips_with_prompt": measured["flips"] >= config.min_flips,
        "needs_prompt": without["flips"] < config.min_flips,
        "within_bound": measured["largest_score"] < config.bound,
    }
    report: dict[str, Any] = {"with_prompts": measured, "without_prompts": without, "checks": checks}
    if control:
        shuffled = quality(records, scores(ctx.files(control), records, words, config.max_length))
        report["shuffled_labels"] = shuffled
        checks["control_at_chance"] = abs(shuffled["conflict_accuracy"] - 0.5) <= config.chance_margin
    accuracy = {f"accuracy/{domain}": value for domain, value in measured["accuracy"].items()}
    ctx.metrics(accuracy | {"flips": measured["flips"]})
    ctx.log.info("reward model", **measured["accuracy"], flips=measured["flips"], checks=checks)
    return ctx.write_json("evaluation", REPORT, report)


def scores(
    folder: Path, records: Sequence[Record], words: Any, max_length: int, *, conditional: bool = True
) -> list[tuple[float, float]]:
    """(chosen, rejected) scores of every pair."""
    from tokenmill.model.folder import load_model
    from tokenmill.model.modeling import InternLM2ForRewardModel
    from tokenmill.rlhf.pairs import encode_pairs
    from tokenmill.rlhf.scoring import reward_scores

    model = load_model(folder, InternLM2ForRewardModel).eval()
    pairs = encode_pairs(records, words, max_length, conditional=conditional)
    flat = reward_scores(model, [side for pair in pairs for side in pair])
    return [(float(chosen), float(rejected)) for chosen, rejected in flat.view(-1, 2)]


def quality(records: Sequence[Record], scored: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Accuracy a domain, mean margin, accuracy on conflicting pairs, and the share of requests on which both are right.

    Of two contradicting pairs with equal scores, exactly one is right: only a model that heeds the prompt has both.
    """
    by_domain: defaultdict[str, list[bool]] = defaultdict(list)
    conflicts: defaultdict[str, list[bool]] = defaultdict(list)
    for record, (chosen, rejected) in zip(records, scored, strict=True):
        by_domain[record["domain"]].append(chosen > rejected)
        if record["conflict"]:
            conflicts[record["id"].partition("#")[0]].append(chosen > rejected)
    flat = [right for both in conflicts.values() for right in both]
    return {
        "accuracy": {domain: _share(right) for domain, right in sorted(by_domain.items())},
        "pairs": {domain: len(right) for domain, right in sorted(by_domain.items())},
        "margin": sum(chosen - rejected for chosen, rejected in scored) / len(scored),
        "conflict_accuracy": _share(flat),
        "flips": _share([all(both) for both in conflicts.values()]),
        "largest_score": max(abs(score) for pair in scored for score in pair),
    }


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right) if right else 0.0
