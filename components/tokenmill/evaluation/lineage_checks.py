"""What the gate asks of a model's lineage: is it clean of the questions, may its data be used, what did it cost?"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenmill.errors import InputError
from tokenmill.evaluation.config import CostCeiling, GateConfig, LicencePolicy
from tokenmill.evaluation.contamination import DECONTAMINATION
from tokenmill.evaluation.evaluate import summary
from tokenmill.evaluation.measured import Measured
from tokenmill.evaluation.patterns import missing, strictest
from tokenmill.evaluation.search import LABELS
from tokenmill.evaluation.statistics import Bootstrap
from tokenmill.evaluation.verdict import Check
from tokenmill.manifest import Manifest
from tokenmill.steps import StepContext
from tokenmill.training.flops import accelerator

_NAMED = 3
"""Sets and questions that a sentence names; the artifact has all."""


@dataclass(frozen=True)
class Contamination:
    """A decontamination report as the gate reads it."""

    facts: dict[str, Any]
    unclean: dict[str, frozenset[str]]
    """Suite → ids of the questions that were found, word for word or reworded."""

    @classmethod
    def read(cls, report: Manifest, ctx: StepContext) -> "Contamination":
        unclean: dict[str, set[str]] = defaultdict(set)
        for row in ctx.records(report):
            if row["label"] != LABELS[0]:
                unclean[row["suite"]].add(row["id"])
        return cls(ctx.read_json(report, DECONTAMINATION), {suite: frozenset(ids) for suite, ids in unclean.items()})


def contaminated(config: GateConfig, measured: Measured, found: Contamination | None) -> Iterator[Check]:
    """The share of a suite's questions that stand in the model's training data, and that these reword."""
    if config.max_contaminated is None and config.max_near is None:
        return
    if found is None:
        yield Check("training data", None, "searched", False, "the training sets were not searched for the questions")
        return
    for key in ("model", "questions"):
        if found.facts[key] != measured.facts[key]:
            raise InputError(
                f"the decontamination report is not about the candidate's {key}: run evaluation.contamination again"
            )
    if not found.facts["sets"]:
        yield Check("training data", None, "searched", False, "the model's lineage names no training data to search")
        return
    asked = (
        (config.max_contaminated, ("input", "input+label"), "share", "stand", "in training data"),
        (config.max_near, ("near",), "near_share", "are reworded", "reworded in training data"),
    )
    for limits, labels, share, verb, name in asked:
        if limits is None:
            continue
        bounds = strictest(limits, found.facts["suites"])
        if not bounds:
            yield Check("training data", None, "searched", False, f"no suite of {', '.join(limits)} was looked for")
        for suite in missing(limits, found.facts["suites"]) if bounds else ():
            yield Check(f"{suite} {name}", None, "searched", False, "no suite of this name was looked for")
        for suite, limit in sorted(bounds.items()):
            row = found.facts["suites"][suite]
            why, evidence = _where(found.facts, suite, labels, verb)
            reworded = labels == ("near",)
            left_out = (
                row["questions"] - row["near_looked_for"] if reworded else row["too_short"] + row["template_only"]
            )
            searched = left_out <= config.max_unsearchable * row["questions"]
            if not searched:
                why += f"; {left_out} could not be looked for, at most {config.max_unsearchable:.0%} may (max_unsearchable)"
            passed = row[share] <= limit and searched
            yield Check(f"{suite} {name}", row[share], f"≤ {limit:g}", passed, why, evidence)


def _where(facts: dict[str, Any], suite: str, labels: tuple[str, ...], verb: str) -> tuple[str, tuple[str, ...]]:
    """How many questions were found, in which training sets, and which."""
    row = facts["suites"][suite]
    hits = sum(row[label] for label in labels)
    counted = [(sum(one["suites"].get(suite, {}).get(label, 0) for label in labels), one) for one in facts["sets"]]
    holders = sorted(((n, one) for n, one in counted if n), key=lambda pair: -pair[0])
    why = f"{hits} of {row['questions']} questions {verb} in {len(facts['sets'])} training sets"
    if "input" in labels and row["input+label"]:
        why += f", {row['input+label']} with their answer"
    if row["too_short"]:
        why += f"; {row['too_short']} are too short to be looked for"
    if row["template_only"]:
        why += f"; {row['template_only']} have no wording of their own to look for"
    if holders:
        told = [f"{n} in {one['kind']} {one['digest'][:12]} of {one['step']}" for n, one in holders[:_NAMED]]
        why += f": {', '.join(told)}{' and others' if len(holders) > _NAMED else ''}"
    return why, tuple(dict.fromkeys(one["digest"] for _, one in holders))


def clean_scores(measured: Measured, found: Contamination, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """Suite → its numbers on the questions that the training data do not give away, and `all`: on all of them.

    Of suites in which something was found; `value` is None where no question is left.
    """
    told = {}
    for suite, ids in sorted(found.unclean.items()):
        if suite not in measured.suites:
            continue
        predictions = measured.predictions.get(suite, {})
        clean = [row for one, row in sorted(predictions.items()) if one not in ids]
        nothing = {"value": None, "ci_low": None, "ci_high": None, "n": 0}
        told[suite] = (summary(measured.suites[suite]["metric"], clean, bootstrap) if clean else nothing) | {
            "all": {name: measured.suites[suite][name] for name in nothing}
        }
    return told


def licensed(policy: LicencePolicy | None, measured: Measured, lineage: dict[str, Any] | None) -> Iterator[Check]:
    """Every source in the lineage has a licence that may stand behind the model."""
    from tokenmill.evaluation.licences import allowed  # its expressions take 70 ms to import

    if policy is None:
        return
    if lineage is None:
        yield Check("licences", None, "allowed", False, "nobody walked the model's lineage")
        return
    _about(measured, lineage)
    if not lineage["sources"]:
        yield Check("licences", None, "allowed", False, "the model's lineage names no source")
        return
    wrong = [source for source in lineage["sources"] if not allowed(policy, source["licence"])]
    names = [f"{source['name']} ({source['licence'].strip() or 'not stated'})" for source in wrong]
    told = ", ".join(names[:_NAMED]) + (" and others" if len(names) > _NAMED else "")
    kinds = sorted({source["licence"] for source in lineage["sources"]})
    why = f"not allowed: {told}" if wrong else f"{len(lineage['sources'])} sources: {', '.join(kinds)}"
    wanted = f"one of {', '.join(policy.allow)}" if policy.allow else f"none of {', '.join(policy.deny)}"
    evidence = tuple(dict.fromkeys(source["digest"] for source in wrong))
    yield Check("licences", float(len(wrong)), wanted, not wrong, why, evidence)


def costed(ceiling: CostCeiling | None, measured: Measured, lineage: dict[str, Any] | None) -> Iterator[Check]:
    """Operations of all trainings, as hours of an accelerator and what they cost."""
    if ceiling is None:
        return
    if lineage is None or not lineage["trainings"]:
        yield Check("training cost", None, f"≤ {ceiling.most:g}", False, "no training in the lineage says its tokens")
        return
    _about(measured, lineage)
    flops = sum(training["flops"] for training in lineage["trainings"])
    hours = flops / (ceiling.mfu * accelerator(ceiling.accelerator).bf16_flops) / 3600
    cost = hours * ceiling.price_per_hour
    why = (
        f"{flops:.3g} operations in {len(lineage['trainings'])} trainings: {hours:.4g} hours of {ceiling.accelerator} at "
        f"{ceiling.mfu:.0%} of its peak"
    )
    yield Check("training cost", float(f"{cost:.7g}"), f"≤ {ceiling.most:g}", cost <= ceiling.most, why)


def _about(measured: Measured, lineage: dict[str, Any]) -> None:
    if lineage["model"] != measured.facts["model"]:
        raise InputError(
            "the list of training sets is not about the candidate's model: run evaluation.collect_training_sets again"
        )
