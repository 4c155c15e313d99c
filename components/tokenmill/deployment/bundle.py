"""A release: everything that a server needs in one folder, and everything that a person asks about it."""

import shutil

import orjson

from tokenmill.deployment.card import card
from tokenmill.deployment.config import BundleConfig
from tokenmill.deployment.release import CARD, pin, policy_of, require_passed
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import StepContext, step

KINDS: dict[str, str | tuple[str, ...]] = {
    "weights": "weights",
    "tokenizer": "tokenizer",
    "evaluation": "evaluation",
    "verdict": "verdict",
    "training_sets": "training_sets",
}


@step("deployment.bundle", version=3, libraries=("safetensors",), kinds=KINDS)
def bundle(
    config: BundleConfig,
    weights: Manifest,
    tokenizer: Manifest,
    evaluation: Manifest,
    verdict: Manifest,
    training_sets: Manifest | None,
    ctx: StepContext,
) -> Draft:
    """Weights in LLaMA layout, tokenizer, template, stop ids, evaluation, verdict and card; release.json pins them all.

    Refuses what the gate did not pass, and evidence that is about something else.
    """
    from tokenmill.model.folder import export_llama
    from tokenmill.model.tokenizer import Tokenizer

    measured, judged = ctx.read_json(evaluation, "evaluation.json"), ctx.read_json(verdict, "verdict.json")
    policy = policy_of(verdict)
    require_passed(judged, verdict.digest[:12])
    _require("verdict", "evaluation", judged["candidate"], evaluation)
    _require("evaluation", "weights", measured["model"], weights)
    _require("evaluation", "tokenizer", measured["tokenizer"], tokenizer)
    lineage = ctx.read_json(training_sets, "training_sets.json") if training_sets else None
    if lineage:
        _require("list of training sets", "weights", lineage["model"], weights)

    folder = ctx.workdir / "release"
    words = ctx.files(tokenizer)
    export_llama(ctx.files(weights), folder, stop_ids=Tokenizer.load(words).stop_ids)
    evidence = {words: [s.name for s in tokenizer.shards], ctx.files(verdict): ["verdict.json", "verdict.md"]}
    for source, names in (evidence | {ctx.files(evaluation): ["evaluation.json"]}).items():
        for name in names:
            shutil.copyfile(source / name, folder / name)
    shape = orjson.loads((folder / "config.json").read_bytes())
    judging = {"content": verdict.content, "passed": True, "checks": len(judged["checks"]), "policy": policy}
    facts = {
        "name": config.name,
        "weights": weights.content,
        "tokenizer": tokenizer.content,
        "evaluation": {"content": evaluation.content, "label": measured["label"], "suites": measured["suites"]},
        "verdict": judging,
        "lineage": lineage,
        "rope_theta": shape["rope_theta"],
        "max_position_embeddings": shape["max_position_embeddings"],
    }
    (folder / CARD).write_text(card(facts, shape, _parameters(ctx, weights)), "utf-8")
    pin(folder, facts)
    return ctx.write_files("release", folder, facts={"name": config.name, "weights": weights.content})


def _require(what: str, about: str, stated: str, given: Manifest) -> None:
    """Evidence must be about what is released."""
    if stated != given.content:
        raise InputError(
            f"the {what} is about another {about} ({stated[:12]}) than the one given ({given.content[:12]}): "
            "release what was evaluated, or evaluate it"
        )


def _parameters(ctx: StepContext, weights: Manifest) -> int:
    from tokenmill.model.folder import read_config

    return read_config(ctx.files(weights)).parameter_count()
