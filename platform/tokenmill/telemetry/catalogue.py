"""Every metric that a step, a training or a run exposes to Prometheus, and which numbers of their events each is.

Names are `tokenmill_<thing>_<unit>`, in base units (seconds, bytes, ratios from 0 to 1). Every series has `phase`, `step` and
`task`; which run it is stands in `tokenmill_run_info` alone, or is the group of a push. A step that is done in parts, a task
each, is one `task`. Dashboards and alerts may use nothing that is not here.
"""

import operator
import re
from collections.abc import Callable
from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A metric's type, help, and labels beside those that all have."""

    told: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"
    of_both: Callable[[float, float], float] = operator.add
    """The value of two parts of a step together."""


STEP = ("phase", "step", "task")
METRICS = {
    "tokenmill_run_info": Metric(
        "Which run of which pipeline the step is a part of.", ("run", "pipeline", "preset"), of_both=max
    ),
    "tokenmill_run_success": Metric("Whether the latest run of the pipeline succeeded."),
    "tokenmill_run_finished_timestamp_seconds": Metric("When the latest run of the pipeline ended."),
    "tokenmill_step_started_timestamp_seconds": Metric("When the step's latest run began.", of_both=min),
    "tokenmill_step_finished_timestamp_seconds": Metric("When the step's latest run ended.", of_both=max),
    "tokenmill_step_seconds": Metric("Wall time of the step's latest run.", ("cache",)),
    "tokenmill_step_budget_seconds": Metric("Wall time that the plan allows the step.", of_both=max),
    "tokenmill_step_success": Metric("Whether the step's latest run succeeded.", of_both=min),
    "tokenmill_steps_total": Metric("Runs of the step by outcome.", ("cache", "outcome"), "counter"),
    "tokenmill_step_progress_ratio": Metric("Share of a piece of the step's work that is done.", ("work",)),
    "tokenmill_step_records": Metric("Records that the step has gone through so far.", ("outcome", "reason")),
    "tokenmill_output_records": Metric("Records in an output: of a corpus, documents.", ("output",)),
    "tokenmill_output_bytes": Metric("Stored bytes of an output.", ("output",)),
    "tokenmill_dropped_records": Metric("Records that the step dropped or set aside.", ("output", "reason")),
    "tokenmill_training_loss_nats": Metric("Loss of the latest step, a mean over trained tokens."),
    "tokenmill_training_heldout_loss_nats": Metric("Loss on held-out text; `loss` is all of it.", ("domain",)),
    "tokenmill_training_gradient_norm": Metric("Global gradient norm before clipping."),
    "tokenmill_training_learning_rate": Metric("Learning rate of the latest step."),
    "tokenmill_training_tokens": Metric("Tokens that the model has seen."),
    "tokenmill_training_tokens_per_second": Metric("Speed of the latest step, over all devices."),
    "tokenmill_training_step_part_seconds": Metric("Where the time since the step before went.", ("part",)),
    "tokenmill_training_data_wait_ratio": Metric("Share of the latest step spent waiting for its batch."),
    "tokenmill_training_mfu_ratio": Metric("Model FLOPs utilization of the latest step."),
    "tokenmill_training_hfu_ratio": Metric("Hardware FLOPs utilization of the latest step, recomputation included."),
    "tokenmill_training_memory_bytes": Metric("Memory of the rank that has most."),
    "tokenmill_training_device_seconds": Metric("Device time spent since the training began, over all devices."),
    "tokenmill_training_cost": Metric("Money spent since the training began, in the currency of the configured price."),
    "tokenmill_training_energy_joules": Metric("Energy spent since the training began, by the configured power."),
    "tokenmill_training_budget_used_ratio": Metric("Money spent over the training's budget."),
    "tokenmill_training_last_step_timestamp_seconds": Metric("When the node's first rank last ended a step."),
    "tokenmill_training_checkpoint_timestamp_seconds": Metric("When the newest checkpoint was stored."),
    "tokenmill_training_restarts": Metric("Times that the training was started again."),
    "tokenmill_training_rollbacks": Metric("Times that steps were gone back before, to leave them out."),
    "tokenmill_training_skipped_batches": Metric("Batches left out because they had spoiled an attempt."),
    "tokenmill_rlhf_reward": Metric("Mean reward of an answer; `all` or a domain.", ("domain",)),
    "tokenmill_rlhf_kl_nats": Metric("KL divergence from the SFT model, an answer."),
    "tokenmill_rlhf_kl_coefficient": Metric("Weight of the KL penalty."),
    "tokenmill_rlhf_gain": Metric("Reward on held-out queries over the SFT model's."),
    "tokenmill_rlhf_pair_accuracy_ratio": Metric("Share of preference pairs ordered as they were labelled."),
    "tokenmill_evaluation_score": Metric("Value of a suite: accuracy, share, pass@1 or perplexity.", ("suite",)),
    "tokenmill_evaluation_drops": Metric("Scores along a training that fell below its best beyond chance."),
    "tokenmill_evaluation_delta_nats": Metric("Contamination delta of a benchmark.", ("delta", "suite")),
    "tokenmill_evaluation_contaminated_ratio": Metric("Share of questions found in training data.", ("suite",)),
    "tokenmill_gate_passed": Metric("Whether the gate let the model through."),
    "tokenmill_gate_failed_checks": Metric("Checks of the gate that failed."),
}


class Rule(NamedTuple):
    """Numbers of events that are a metric: its name, what they are multiplied with."""

    pattern: re.Pattern[str]
    """Of the number's whole name; its named groups are labels."""
    metric: str
    factor: float = 1.0
    steps: str = ""
    """Prefix of the steps whose number it is; a name like `accuracy` means something else elsewhere."""


def _rule(pattern: str, metric: str, factor: float = 1.0, steps: str = "") -> Rule:
    return Rule(re.compile(pattern), metric, factor, steps)


RULES = (
    _rule("loss", "tokenmill_training_loss_nats"),
    _rule("heldout/(?P<domain>.+)", "tokenmill_training_heldout_loss_nats"),
    _rule("grad_norm", "tokenmill_training_gradient_norm"),
    _rule("lr", "tokenmill_training_learning_rate"),
    _rule("perf/tokens_per_s", "tokenmill_training_tokens_per_second"),
    _rule("perf/step/(?P<part>.+)_s", "tokenmill_training_step_part_seconds"),
    _rule("perf/data_wait_ratio", "tokenmill_training_data_wait_ratio"),
    _rule("perf/mfu", "tokenmill_training_mfu_ratio"),
    _rule("perf/hfu", "tokenmill_training_hfu_ratio"),
    _rule("perf/memory_gib", "tokenmill_training_memory_bytes", 2**30),
    _rule("spent/device_hours", "tokenmill_training_device_seconds", 3600),
    _rule("spent/cost", "tokenmill_training_cost"),
    _rule("spent/kwh", "tokenmill_training_energy_joules", 3.6e6),
    _rule("spent/budget_ratio", "tokenmill_training_budget_used_ratio"),
    _rule("incidents/restarts", "tokenmill_training_restarts"),
    _rule("incidents/rollbacks", "tokenmill_training_rollbacks"),
    _rule("incidents/skipped_steps", "tokenmill_training_skipped_batches"),
    _rule("reward(?:/(?P<domain>.+))?", "tokenmill_rlhf_reward", steps="rlhf."),
    _rule("kl", "tokenmill_rlhf_kl_nats", steps="rlhf."),
    _rule("kl_coefficient", "tokenmill_rlhf_kl_coefficient", steps="rlhf."),
    _rule("gain", "tokenmill_rlhf_gain", steps="rlhf."),
    _rule("accuracy", "tokenmill_rlhf_pair_accuracy_ratio", steps="rlhf."),
    _rule("drops", "tokenmill_evaluation_drops", steps="evaluation."),
    _rule("evaluation/(?P<delta>delta[12])/(?P<suite>.+)", "tokenmill_evaluation_delta_nats", steps="evaluation."),
    _rule("evaluation/(?P<suite>.+)", "tokenmill_evaluation_score", steps="evaluation."),
    _rule("contaminated/(?P<suite>.+)", "tokenmill_evaluation_contaminated_ratio", steps="evaluation."),
)
"""Read from the top: the first that fits a number is its metric. Numbers that none fits go to MLflow alone."""


def metric_of(number: str, step: str) -> tuple[Rule, dict[str, str]] | None:
    """The metric that an event's number of a step is, and its own labels."""
    for rule in RULES:
        if step.startswith(rule.steps) and (found := rule.pattern.fullmatch(number)):
            return rule, {label: value or "all" for label, value in found.groupdict().items()}
    return None
