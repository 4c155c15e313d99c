"""The life of a model, from raw documents to a served token."""

from typing import Any

from kfp import dsl

from tokenmill.deployment.component import register_refused
from tokenmill.evaluation.component import follow
from tokenmill.pipelines.phases import (
    ROUNDS,
    alignment,
    curation,
    deployment,
    enhancement,
    evaluation,
    pretraining,
    questions,
    sft,
    usual_rounds,
)
from tokenmill.pipelines.run import opened, report
from tokenmill.sft.component import prepare_conversations


def lifecycle(preset: str) -> Any:
    """The pipeline, made for one preset."""

    @dsl.pipeline(name=f"tokenmill-lifecycle-{preset}", description="From raw documents to a served model.")
    def pipeline(
        sources: list = [],  # noqa: B006 - KFP reads the default
        scorers: list = [],  # noqa: B006
        overrides: dict = {},  # noqa: B006
        rounds: int = usual_rounds(preset),
        release_alias: str = "candidate",
        deploy: bool = True,
    ) -> None:
        with opened("lifecycle", preset, overrides, rounds=rounds, most_rounds=ROUNDS) as run:
            curated = curation(run=run, sources=sources, scorers=scorers)
            corpus = curated.outputs["corpus"]
            pretrained = pretraining(run=run, corpus=corpus)
            tokenizer, tokens, base = (pretrained.outputs[name] for name in ("tokenizer", "tokens", "base"))

            instructions = prepare_conversations(run=run, sources=curated.outputs["sources"])
            asked = questions(run=run, corpus=corpus, tokens=tokens, conversations=instructions.outputs["heldout"])
            follow(
                run=run,
                short=pretrained.outputs["kept_short"],
                long=pretrained.outputs["kept_long"],
                tokenizer=tokenizer,
                questions=asked.outputs["questions"],
            )
            enhanced = enhancement(
                run=run,
                corpus=corpus,
                questions=asked.outputs["questions"],
                tokenizer=tokenizer,
                tokens=tokens,
                base=base,
            )
            tuned = sft(
                run=run,
                conversations=instructions.outputs["conversations"],
                heldout=instructions.outputs["heldout"],
                questions=asked.outputs["questions"],
                base=base,
                tokenizer=tokenizer,
                tokens=tokens,
            )
            aligned = alignment(
                run=run,
                rounds=rounds,
                sources=curated.outputs["sources"],
                questions=asked.outputs["questions"],
                conversations=tuned.outputs["conversations"],
                sft=tuned.outputs["checkpoint"],
                tokenizer=tokenizer,
                tokens=tokens,
            )
            judged = evaluation(
                run=run,
                questions=asked.outputs["questions"],
                tokenizer=tokenizer,
                base=base,
                enhanced=enhanced.outputs["checkpoint"],
                sft=tuned.outputs["checkpoint"],
                chat=aligned.outputs["chat"],
            )
            with dsl.If(judged.outputs["passed"] == True, name="passed"):  # noqa: E712 - KFP's comparison
                deployed = deployment(
                    run=run,
                    alias=release_alias,
                    deploy=deploy,
                    chat=aligned.outputs["chat"],
                    base=base,
                    reward_model=aligned.outputs["reward_model"],
                    tokenizer=tokenizer,
                    evaluation=judged.outputs["evaluation"],
                    training_sets=judged.outputs["training_sets"],
                    verdict=judged.outputs["verdict"],
                )
                report(run=run).after(deployed)
            with dsl.Else(name="refused"):
                refused = register_refused(run=run, weights=aligned.outputs["chat"], verdict=judged.outputs["verdict"])
                report(run=run).after(refused)

    return pipeline
