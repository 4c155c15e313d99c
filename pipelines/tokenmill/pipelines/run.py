"""The frame of every pipeline: the first task carries the run's identity, the exit task brings MLflow up to date."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kfp import dsl

from tokenmill import images


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def open_run(name: str, preset: str, overrides: dict, job_id: str, rounds: int = 0, most_rounds: int = 0) -> str:
    """Validate preset and overrides as a whole, before anything is spent; returns the run's identity for every task."""
    from tokenmill.pipelines.opening import open_run

    return open_run(name, preset, overrides, job_id, rounds, most_rounds)


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def close_run(job_id: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Record how the run ended and deliver its events to MLflow, whatever happened."""
    from tokenmill.pipelines.opening import close_run

    close_run(job_id, status.state, status.error_message or "")


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def report(run: str, page: dsl.Output[dsl.HTML], after: str = "") -> None:
    """The run on one page: funnel, losses, rewards, evaluation, verdict, lineage."""
    from tokenmill.steps import run_component

    run_component("report.render", run, outputs={"output": page})


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def import_manifest(run: str, uri: str, artifact: dsl.Output[dsl.Artifact]) -> None:
    """Start from what exists: a checkpoint, a corpus, somebody else's model."""
    from tokenmill.pipelines.opening import import_manifest

    import_manifest(run, uri, artifact)


@contextmanager
def opened(name: str, preset: str, overrides: Any, rounds: Any = 0, most_rounds: int = 0) -> Iterator[Any]:
    """The frame: the tasks of the block belong to one run, which is closed however they end; yields what each is told.

    A pipeline with rounds gives how many are wanted (`rounds`) and how many it has (`most_rounds`).
    """
    job_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    run = open_run(
        name=name, preset=preset, overrides=overrides, job_id=job_id, rounds=rounds, most_rounds=most_rounds
    ).output
    with dsl.ExitHandler(close_run(job_id=job_id), name="life"):
        yield run


def imported(run: Any, **uris: Any) -> dict[str, Any]:
    """What exists already, by name: the very manifests, so that whatever is made of them has their lineage."""
    return {
        name: import_manifest(run=run, uri=uri).set_display_name(f"import {name}").outputs["artifact"]
        for name, uri in uris.items()
    }
