"""A model that is served, on datasets: the server holds it, and each dataset is a task of its own that needs no accelerator.

So a dataset that fails takes no other with it, and a server of any size is asked by as many tasks as the cluster has room for.
"""

from typing import Any

from kfp import dsl

from tokenmill.evaluation.component import board, choose_datasets, evaluate_endpoint
from tokenmill.pipelines.run import opened, report

DESCRIPTION = (
    "A served model on datasets of the store and tasks of lm-eval, each a task of its own; all scores on one board."
)


def benchmark(preset: str) -> Any:
    """The pipeline, made for one preset: of it only the section `evaluation` is read."""

    @dsl.pipeline(name=f"tokenmill-benchmark-{preset}", description=DESCRIPTION)
    def pipeline(
        url: str,
        model: str,
        weights: str = "",
        tokenizer: str = "",
        datasets: list = [],  # noqa: B006 - KFP reads the default
        tasks: list = [],  # noqa: B006
        form: str = "chat",
        judge_url: str = "",
        overrides: dict = {},  # noqa: B006
    ) -> None:
        with opened("benchmark", preset, overrides) as run:
            chosen = choose_datasets(weights=weights, tokenizer=tokenizer, datasets=datasets, tasks=tasks)
            served = {"run": run, "url": url, "model": model, "form": form, "judge_url": judge_url}
            served |= {"weights": chosen.outputs["served"], "tokenizer": chosen.outputs["words"]}
            with dsl.ParallelFor(chosen.outputs["Output"], name="ask") as one:
                asked = evaluate_endpoint(**served, questions=one.questions, lm_eval=one.lm_eval, suffix=one.suffix)
            scores = board(run=run, evaluations=dsl.Collected(asked.outputs["evaluation"]))
            report(run=run).after(scores)

    return pipeline
