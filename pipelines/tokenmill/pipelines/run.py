"""Opening and closing a run: the first task carries its identity, the exit task brings MLflow up to date."""

from kfp import dsl

from tokenmill import images


@dsl.component(base_image=images.CURATION, install_kfp_package=False)
def open_run(name: str, preset: str, overrides: dict, job_id: str) -> str:
    """Validate preset and overrides as a whole, before anything is spent; returns the run's identity for every task."""
    from tokenmill.pipelines.opening import open_run

    return open_run(name, preset, overrides, job_id)


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
