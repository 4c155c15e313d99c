"""Documents of a domain out of a corpus, by questions of one's own (report §3.3.3): what `continual` then learns."""

from typing import Any

from kfp import dsl

from tokenmill.curation.component import ingest, register_sources, retrieve
from tokenmill.pipelines.run import imported, opened, report

DESCRIPTION = "Seed questions from files; the documents of a corpus that answer them, by BM25."


def retrieval(preset: str) -> Any:
    """A corpus and files of seed questions → `retrieved`, and what each question found."""

    @dsl.pipeline(name=f"tokenmill-retrieval-{preset}", description=DESCRIPTION)
    def pipeline(corpus: str, questions: list, overrides: dict = {}) -> None:  # noqa: B006 - KFP reads the default
        with opened("retrieval", preset, overrides) as run:
            documents = imported(run, corpus=corpus)["corpus"]
            registered = register_sources(run=run, sources=questions, task="curation.register_sources.questions")
            files = registered.outputs["registered"]
            seeds = ingest(run=run, sources=files, task="curation.ingest.questions").outputs["corpus"]
            found = retrieve(run=run, corpus=documents, questions=seeds)
            report(run=run).after(found)

    return pipeline
