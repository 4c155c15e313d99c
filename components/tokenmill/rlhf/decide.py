"""The stop rule: is a round's policy handed on, and does another round follow? (report §4.2.2 ran three)

An effect, for two reasons. It chooses: the policy that leaves is one of those that came in, by the very digest. And its page
is told to the MLflow of every run, also where all before it was found done.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenmill.manifest import Draft, Manifest
from tokenmill.rlhf.config import DecideConfig
from tokenmill.rlhf.probe import REPORT
from tokenmill.steps import StepContext, effect

DECISION, PAGE = "decision.json", "round.html"
KINDS = {
    "evaluation": "evaluation",
    "patches": "preferences",
    "policy": "weights",
    "before": "weights",
    "training_log": "training_log",
}


@effect("rlhf.decide", version=1, kinds=KINDS)
def decide(
    config: DecideConfig,
    evaluation: Manifest,
    patches: Manifest,
    policy: Manifest,
    before: Manifest,
    training_log: Manifest,
    ctx: StepContext,
) -> dict[str, Draft]:
    """Hand on the round's policy, or the one before it; say whether the rounds go on, and why, on a page of the round."""
    from tokenmill.rlhf.round_page import page

    report = ctx.read_json(evaluation, REPORT)
    ruling = rule(report, config)
    log = [record for record in ctx.records(training_log) if "reward" in record]
    title = ctx.events.task.rpartition(".")[2].replace("-", " ")
    folder = ctx.workdir / "page"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(page(title, report, ruling, log, list(ctx.records(patches))), "utf-8")
    shown = ctx.write_files("report", folder)
    ctx.events.artifact(PAGE, shown.shards[0].blob)
    ctx.metrics({"accepted": float(ruling.accepted), "goes_on": float(ruling.goes_on)})
    ctx.log.info("decided", accepted=ruling.accepted, goes_on=ruling.goes_on, reason=ruling.reason)
    told = {"accepted": ruling.accepted, "goes_on": ruling.goes_on, "reason": ruling.reason}
    counts = {"accepted": int(ruling.accepted), "goes_on": int(ruling.goes_on)}
    return {
        "policy": policy if ruling.accepted else before,
        "decision": ctx.write_json("decision", DECISION, told, counts=counts),
        "page": shown,
    }


@dataclass(frozen=True)
class Ruling:
    """What follows from a round."""

    accepted: bool
    """Its policy is handed on; else the one before it stays."""
    goes_on: bool
    """Another round may follow, if one is wanted."""
    reason: str


def rule(report: Mapping[str, Any], config: DecideConfig) -> Ruling:
    """Refuse a policy that fails what is required; stop after a round that gained nothing and left nothing to mend."""
    mended = [hack["pattern"] for hack in report["hacks"] if hack["pairs"]]
    next_time = f" The next reward model learns patches against: {', '.join(mended)}." if mended else ""
    failed = [why(name, report) for name in config.required if report["checks"].get(name) is False]
    if failed:
        goes_on = config.retry_refused and bool(mended)
        end = next_time if goes_on else " The rounds end here."
        return Ruling(False, goes_on, f"{'; '.join(failed)}. The policy before this round stays.{end}")
    gain, lower = report["gain_over_last"], report["gain_over_last_lower_bound"]
    told = f"The round gained {gain:+.2f} over the policy before it (at least {lower:+.2f})"
    if mended:
        return Ruling(True, True, f"{told}.{next_time}")
    if config.needs_gain and lower <= 0:
        return Ruling(True, False, f"{told}: within chance, and no hack is left to mend. The rounds end here.")
    return Ruling(True, True, f"{told} and keeps what is required. The rounds go on.")


def why(check: str, report: Mapping[str, Any]) -> str:
    """What a failed check says, with its numbers."""
    limits = report["limits"]
    match check:
        case "reward_grew":
            return (
                f"The gain over SFT is within chance: {report['gain']:+.2f}, at least {report['gain_lower_bound']:+.2f}"
            )
        case "not_below_last":
            most = report["gain_over_last_upper_bound"]
            return f"Less reward than the policy before: {report['gain_over_last']:+.2f}, at most {most:+.2f}"
        case "judge_kept":
            most = report["judge_gain_upper_bound"]
            return f"The held-out judge gives less: {report['judge_gain']:+.2f}, at most {most:+.2f}"
        case "kl_within_limit":
            return f"KL {report['kl']:.1f} nats an answer, more than the budget of {limits['max_kl']:g} (rlhf.probe.max_kl)"
        case "length_kept":
            change, most = report["length_change"], limits["max_length_change"]
            return f"Answers' length changed by {change:+.0%}, more than {most:.0%} (rlhf.probe.max_length_change)"
        case _:
            name = check.removesuffix("_kept")
            then, now, limit = report[f"{name}_before"], report[f"{name}_after"], f"max_{name}_loss"
            return (
                f"{name.capitalize()} score {then:.0%} → {now:.0%}, a loss of more than {limits[limit]:.1%} that is no "
                f"chance (rlhf.probe.{limit})"
            )
