"""A registered release, served: what `tokenmill deploy` does, from the Kubeflow UI or on a schedule."""

from typing import Any

from kfp import dsl

from tokenmill.deployment.component import deploy, find_release, promote
from tokenmill.pipelines.run import imported, opened

DESCRIPTION = "A registered release, judged, served and asked; the alias moves to it if it served well."


def serve(preset: str) -> Any:
    """The pipeline, made for one preset: of it only the smoke test's options are read."""

    @dsl.pipeline(name=f"tokenmill-serve-{preset}", description=DESCRIPTION)
    def pipeline(model: str, overrides: dict = {}) -> None:  # noqa: B006 - KFP reads the default
        with opened("serve", preset, overrides) as run:
            release = imported(run, release=model)["release"]
            found = find_release(run=run, model=model).outputs["registration"]
            served = deploy(run=run, go=True, release=release, registration=found).outputs["deployment"]
            promote(run=run, go=True, registration=found, deployment=served)

    return pipeline
