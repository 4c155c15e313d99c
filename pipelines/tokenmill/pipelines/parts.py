"""Every phase alone: it takes manifests of what other phases made, and makes the rest itself.

A name means the same in all of them: `base` is what pretraining ends with, wherever it is asked for. Small things that
several phases need (conversations, questions) are made again from the same inputs, which the action cache finds done.
"""

from typing import Any

from kfp import dsl

from tokenmill.pipelines import phases
from tokenmill.pipelines.phases import ROUNDS, usual_rounds
from tokenmill.pipelines.run import imported, opened, report
from tokenmill.sft.component import decontaminate_conversations, prepare_conversations


def _pipeline(name: str, preset: str) -> Any:
    return dsl.pipeline(name=f"tokenmill-{name}-{preset}", description=getattr(phases, name).component_spec.description)


def curation(preset: str) -> Any:
    """Sources → `sources`, `corpus`."""

    @_pipeline("curation", preset)
    def pipeline(sources: list = [], scorers: list = [], overrides: dict = {}) -> None:  # noqa: B006 - KFP reads the default
        with opened("curation", preset, overrides) as run:
            report(run=run).after(phases.curation(run=run, sources=sources, scorers=scorers))

    return pipeline


def pretraining(preset: str) -> Any:
    """A corpus → `tokenizer`, `tokens`, `base`."""

    @_pipeline("pretraining", preset)
    def pipeline(corpus: str, overrides: dict = {}) -> None:  # noqa: B006
        with opened("pretraining", preset, overrides) as run:
            report(run=run).after(phases.pretraining(run=run, **imported(run, corpus=corpus)))

    return pipeline


def enhancement(preset: str) -> Any:
    """Base and a corpus → `enhanced`."""

    @_pipeline("enhancement", preset)
    def pipeline(sources: str, corpus: str, tokens: str, tokenizer: str, base: str, overrides: dict = {}) -> None:  # noqa: B006
        with opened("enhancement", preset, overrides) as run:
            given = imported(run, sources=sources, corpus=corpus, tokens=tokens)
            model = imported(run, tokenizer=tokenizer, base=base)
            asked = _questions(run, **given)
            enhanced = phases.enhancement(
                run=run, corpus=given["corpus"], questions=asked, tokens=given["tokens"], **model
            )
            report(run=run).after(enhanced)

    return pipeline


def sft(preset: str) -> Any:
    """Base → `sft`, a model that answers."""

    @_pipeline("sft", preset)
    def pipeline(sources: str, corpus: str, tokens: str, tokenizer: str, base: str, overrides: dict = {}) -> None:  # noqa: B006
        with opened("sft", preset, overrides) as run:
            given = imported(run, sources=sources, corpus=corpus)
            model = imported(run, tokens=tokens, tokenizer=tokenizer, base=base)
            instructions = prepare_conversations(run=run, sources=given["sources"]).outputs
            asked = phases.questions(
                run=run, corpus=given["corpus"], tokens=model["tokens"], conversations=instructions["heldout"]
            )
            tuned = phases.sft(
                run=run,
                conversations=instructions["conversations"],
                heldout=instructions["heldout"],
                questions=asked.outputs["questions"],
                **model,
            )
            report(run=run).after(tuned)

    return pipeline


def alignment(preset: str) -> Any:
    """The SFT model → `reward_model`, `chat`."""

    @_pipeline("alignment", preset)
    def pipeline(
        sources: str,
        corpus: str,
        tokens: str,
        tokenizer: str,
        sft: str,
        rounds: int = usual_rounds(preset),
        overrides: dict = {},  # noqa: B006
    ) -> None:
        with opened("alignment", preset, overrides, rounds=rounds, most_rounds=ROUNDS) as run:
            given = imported(run, sources=sources, corpus=corpus)
            model = imported(run, tokens=tokens, tokenizer=tokenizer, sft=sft)
            instructions = prepare_conversations(run=run, sources=given["sources"]).outputs
            asked = phases.questions(
                run=run, corpus=given["corpus"], tokens=model["tokens"], conversations=instructions["heldout"]
            ).outputs["questions"]
            unasked = decontaminate_conversations(
                run=run, conversations=instructions["conversations"], questions=asked
            ).outputs["unasked"]
            aligned = phases.alignment(
                run=run,
                rounds=rounds,
                sources=given["sources"],
                questions=asked,
                conversations=unasked,
                **model,
            )
            report(run=run).after(aligned)

    return pipeline


def evaluation(preset: str) -> Any:
    """Four checkpoints → `evaluation` (of the chat model), `training_sets`, `verdict`."""

    @_pipeline("evaluation", preset)
    def pipeline(
        sources: str,
        corpus: str,
        tokens: str,
        tokenizer: str,
        base: str,
        enhanced: str,
        sft: str,
        chat: str,
        overrides: dict = {},  # noqa: B006
    ) -> None:
        with opened("evaluation", preset, overrides) as run:
            given = imported(run, sources=sources, corpus=corpus, tokens=tokens)
            models = imported(run, tokenizer=tokenizer, base=base, enhanced=enhanced, sft=sft, chat=chat)
            asked = _questions(run, **given)
            report(run=run).after(phases.evaluation(run=run, questions=asked, **models))

    return pipeline


def deployment(preset: str) -> Any:
    """A chat model that the gate passed → a release, registered, served and promoted."""

    @_pipeline("deployment", preset)
    def pipeline(
        tokenizer: str,
        base: str,
        reward_model: str,
        chat: str,
        evaluation: str,
        training_sets: str,
        verdict: str,
        release_alias: str = "candidate",
        deploy: bool = True,
        overrides: dict = {},  # noqa: B006
    ) -> None:
        with opened("deployment", preset, overrides) as run:
            models = imported(run, tokenizer=tokenizer, base=base, reward_model=reward_model, chat=chat)
            evidence = imported(run, evaluation=evaluation, training_sets=training_sets, verdict=verdict)
            deployed = phases.deployment(run=run, alias=release_alias, deploy=deploy, **models, **evidence)
            report(run=run).after(deployed)

    return pipeline


def _questions(run: Any, sources: Any, corpus: Any, tokens: Any) -> Any:
    """What models are asked, drawn from what none of them is trained on."""
    heldout = prepare_conversations(run=run, sources=sources).outputs["heldout"]
    asked = phases.questions(run=run, corpus=corpus, tokens=tokens, conversations=heldout)
    return asked.outputs["questions"]
