"""Continual pretraining of anybody's model on anybody's books, articles or code: enhancement, with its own questions.

Base is a run's, or comes in by `tokenmill model import`. Everything in the corpus is learned, but for what is held out to ask
about: that is how before and after are compared.
"""

from typing import Any

from kfp import dsl

from tokenmill.enhancement.component import enhance, prepare_domain
from tokenmill.evaluation.component import compare, evaluate, prepare_questions
from tokenmill.pipelines.run import imported, opened, report
from tokenmill.pretraining.component import tokenize_corpus

DESCRIPTION = (
    "A corpus into an existing model: held-out questions, decontamination, a stage at a low rate, before and after."
)


def continual(preset: str) -> Any:
    """A corpus and a model → `enhanced`, and what that gave and took."""

    @dsl.pipeline(name=f"tokenmill-continual-{preset}", description=DESCRIPTION)
    def pipeline(corpus: str, tokenizer: str, base: str, overrides: dict = {}) -> None:  # noqa: B006 - KFP reads the default
        with opened("continual", preset, overrides) as run:
            documents = imported(run, corpus=corpus)["corpus"]
            model = imported(run, tokenizer=tokenizer, base=base)
            words = model["tokenizer"]
            every = tokenize_corpus(run=run, corpus=documents, tokenizer=words).outputs["tokens"]
            asked = prepare_questions(run=run, corpus=documents, tokens=every).outputs["questions"]
            chosen = prepare_domain(run=run, corpus=documents, questions=asked, everything=True).outputs
            tokens = tokenize_corpus(run=run, corpus=chosen["domain"], tokenizer=words, task="enhancement.tokenize")
            enhanced = enhance(
                run=run,
                tokens=tokens.outputs["tokens"],
                base=model["base"],
                decontamination=chosen["decontamination"],
            ).outputs["checkpoint"]
            before, after = (
                evaluate(run=run, label=label, form="plain", weights=weights, tokenizer=words, questions=asked)
                for label, weights in (("base", model["base"]), ("enhanced", enhanced))
            )
            compared = compare(
                run=run,
                task="evaluation.compare.enhanced",
                before=before.outputs["evaluation"],
                after=after.outputs["evaluation"],
            )
            report(run=run).after(compared)

    return pipeline
