"""Commands that do work: run, step, compile, submit."""

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from tokenmill.cli.main import AsJson, Assignments, Preset, StoreUri, Team, app, use_store, use_team
from tokenmill.config import load_preset, merge, nest, parse_assignments
from tokenmill.errors import ConfigError

Pipeline = Annotated[
    str,
    typer.Argument(
        help="lifecycle, continual, retrieval, serve, benchmark, smoke, or a phase alone: curation, pretraining, …"
    ),
]
Arguments = Annotated[list[str] | None, typer.Option("--arg", metavar="NAME=VALUE", help="a parameter of the pipeline")]
Given = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="NAME=MANIFEST", help="what exists: digest, URI or models:/…@alias"),
]


def checked(preset: str, assignments: list[str] | None) -> dict[str, Any]:
    """Overrides, after the whole tree of preset and overrides was validated."""
    from tokenmill.lifecycle_config import LifecycleConfig

    overrides = parse_assignments(assignments or [])
    LifecycleConfig.at("", merge(load_preset(preset), nest(overrides)))
    return overrides


def references(inputs: list[str] | None) -> list[tuple[str, str]]:
    """(name, manifest) of every `--input`. A digest is no YAML: some look like numbers."""
    pairs = [one.partition("=") for one in inputs or []]
    if wrong := [name for name, _, reference in pairs if not reference]:
        raise ConfigError(f"--input {wrong[0]!r}: expected name=manifest")
    return [(name.strip(), reference.strip()) for name, _, reference in pairs]


@app.command()
def run(
    pipeline: Pipeline = "lifecycle",
    preset: Preset = "nano",
    assignments: Assignments = None,
    store: StoreUri = None,
    inputs: Given = None,
    arguments: Arguments = None,
    team: Team = None,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline here: the same components as on a cluster, under kfp.local."""
    from tokenmill.cli.local import run_locally

    use_team(team)
    overrides = checked(preset, assignments)
    uri = use_store(store)
    parameters = parse_assignments(arguments or [], "--arg") | dict(references(inputs))
    result = run_locally(pipeline, preset, overrides, parameters, uri, quiet=as_json)
    if as_json:
        typer.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
    raise typer.Exit(0 if result["status"] == "succeeded" else result["exit_code"])


@app.command()
def step(
    name: Annotated[str, typer.Argument(help="e.g. curation.filter")],
    inputs: Given = None,
    preset: Preset = "nano",
    assignments: Assignments = None,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Run one step on existing manifests."""
    from tokenmill.lineage import resolve as resolve_manifest
    from tokenmill.steps import configured, find, run_step
    from tokenmill.store import open_store
    from tokenmill.tracking import RunRef

    overrides = checked(preset, assignments)
    opened = open_store(use_store(store))
    given: dict[str, list[Any]] = {}
    for role, reference in references(inputs):
        given.setdefault(role, []).append(opened.get_manifest(resolve_manifest(opened, reference)))
    config = configured(find(name), preset, overrides)
    outputs = run_step(name, config, given, store=opened, run=RunRef.new(name, preset))
    if as_json:
        typer.echo(orjson.dumps({role: m.digest for role, m in outputs.items()}).decode())
        return
    for role, manifest in outputs.items():
        typer.echo(f"{role}: {manifest.kind} {manifest.digest}  {dict(manifest.counts)}")


@app.command("compile")
def compile_pipeline(
    pipeline: Pipeline = "lifecycle",
    preset: Preset = "nano",
    profile: Annotated[str, typer.Option(help="cpu or gpu: resources, tolerations, secrets on the tasks")] = "cpu",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="[dist/<pipeline>-<preset>-<profile>.yaml]")
    ] = None,
    registry: Annotated[str | None, typer.Option(help="registry and path to put before the images' names")] = None,
) -> None:
    """Compile a pipeline for the Kubeflow UI."""
    from tokenmill.pipelines.package import compile_package

    checked(preset, None)
    path = output or Path("dist") / f"{pipeline}-{preset}-{profile}.yaml"
    compile_package(pipeline, preset, profile, path, registry)
    typer.echo(path)


@app.command()
def upload(
    pipelines: Annotated[list[str], typer.Argument(help="pipelines, e.g. lifecycle")],
    host: Annotated[str, typer.Option(envvar="KFP_ENDPOINT", help="Kubeflow Pipelines' API endpoint")],
    preset: Preset = "nano",
    profile: Annotated[str, typer.Option(help="cpu or gpu")] = "gpu",
    registry: Annotated[str | None, typer.Option(help="registry and path to put before the images' names")] = None,
) -> None:
    """Compile pipelines and upload them as versions; one that is there already is left alone."""
    from tokenmill.pipelines.package import upload_package

    checked(preset, None)
    for pipeline in pipelines:
        name, fresh = upload_package(pipeline, preset, profile, host, registry)
        typer.echo(f"{name} {'uploaded' if fresh else 'is there'}")


@app.command()
def submit(
    pipeline: Pipeline = "lifecycle",
    preset: Preset = "nano",
    profile: Annotated[str, typer.Option(help="cpu or gpu")] = "gpu",
    host: Annotated[str | None, typer.Option(envvar="KFP_ENDPOINT", help="Kubeflow Pipelines' API endpoint")] = None,
    namespace: Annotated[str | None, typer.Option(envvar="KFP_NAMESPACE", help="[the team's, or kubeflow]")] = None,
    experiment: Annotated[str | None, typer.Option(help="[tokenmill, or tokenmill-TEAM]")] = None,
    account: Annotated[
        str | None, typer.Option("--service-account", envvar="KFP_SERVICE_ACCOUNT", help="of the steps [KFP's own]")
    ] = None,
    team: Team = None,
    assignments: Assignments = None,
    inputs: Given = None,
    arguments: Arguments = None,
    registry: Annotated[str | None, typer.Option()] = None,
) -> None:
    """Compile, upload and start a pipeline through kfp's own client."""
    from tokenmill.pipelines.package import Where, submit_package

    use_team(team)
    overrides = checked(preset, assignments)
    parameters = parse_assignments(arguments or [], "--arg") | dict(references(inputs))
    parameters |= {"overrides": overrides} if overrides else {}
    where = Where(
        host, namespace or team or "kubeflow", experiment or "-".join(filter(None, ("tokenmill", team))), account
    )
    typer.echo(submit_package(pipeline, preset, profile, parameters, where, registry))
