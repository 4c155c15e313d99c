"""The seams in a minute: sources → filter → a two-rank training → report."""

from typing import Any

from kfp import dsl

from tokenmill.curation.component import filter_corpus, ingest, register_sources
from tokenmill.pipelines.run import opened, report
from tokenmill.pretraining.component import pretrain_short, tokenize_corpus, train_tokenizer


def smoke(preset: str) -> Any:
    """The pipeline, made for one preset."""

    @dsl.pipeline(name=f"tokenmill-smoke-{preset}", description="Sources, filter, a two-rank training, a report.")
    def pipeline(sources: list = [], overrides: dict = {}) -> None:  # noqa: B006 - KFP reads the default
        with opened("smoke", preset, overrides) as run:
            registered = register_sources(run=run, sources=sources)
            raw = ingest(run=run, sources=registered.outputs["registered"])
            clean = filter_corpus(run=run, corpus=raw.outputs["corpus"])
            corpus = clean.outputs["clean"]
            tokenizer = train_tokenizer(run=run, corpus=corpus).outputs["tokenizer"]
            tokens = tokenize_corpus(run=run, corpus=corpus, tokenizer=tokenizer).outputs["tokens"]
            trained = pretrain_short(run=run, tokens=tokens, tokenizer=tokenizer)
            report(run=run).after(trained)

    return pipeline
