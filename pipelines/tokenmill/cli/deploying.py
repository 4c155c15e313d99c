"""Commands of serving: `tokenmill deploy` and the way back, through the same steps as a pipeline's last part."""

from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer

from tokenmill.cli.main import AsJson, StoreUri, app, use_store
from tokenmill.errors import ConfigError, InputError, UserError

deploy_app = typer.Typer(help="Serve a registered release, judge it, ask it; or go back.", invoke_without_command=True)
app.add_typer(deploy_app, name="deploy")

ReleaseName = Annotated[str, typer.Option(help="Helm release")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", envvar="TOKENMILL_NAMESPACE", help="of the release")]
Context = Annotated[str | None, typer.Option(help="context of the kubeconfig [the current one]")]
Program = Annotated[str, typer.Option(help="Helm's program")]
Url = Annotated[str | None, typer.Option(help="where the Service is reached from here, e.g. a port that is forwarded")]
Alias = Annotated[str, typer.Option(help="alias that moves to what serves well; '' leaves aliases alone")]
Timeout = Annotated[float, typer.Option(help="seconds that one upgrade may take, a canary's analysis included")]


@deploy_app.callback()
def deploy(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="models:/name@alias or models:/name/version")] = "",
    values: Annotated[list[Path] | None, typer.Option("--values", "-f", help="values of the chart `inference`")] = None,
    release: ReleaseName = "chat",
    namespace: Namespace = "default",
    target: Annotated[Literal["helm", "process"], typer.Option(help="the chart, or a trial on this machine")] = "helm",
    canary: Annotated[bool, typer.Option(help="judge it beside what is served")] = True,
    alias: Alias = "production",
    url: Url = None,
    context: Context = None,
    chart: Annotated[str | None, typer.Option(help="folder, archive or oci:// [the one that comes along]")] = None,
    helm: Program = "helm",
    timeout_s: Timeout = 3600,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="ask the cluster what it lacks; change nothing")] = False,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Serve a registered release: preflight, canary, upgrade with a way back, smoke test, alias."""
    if ctx.invoked_subcommand:
        return
    if not model:
        raise ConfigError("which model? --model models:/internlm2-chat-7b@candidate")
    from tokenmill.deployment.helm import read_values

    use_store(store)
    settings = {
        "target": target,
        "release": release,
        "namespace": namespace,
        "context": context,
        "chart": chart,
        "helm": helm,
        "values": read_values(values or []),
        "canary": canary,
        "url": url,
        "timeout_s": timeout_s,
    }
    if dry_run:
        _examine(model, settings, as_json)
        return
    told = _through_the_steps("deploy", model, settings, alias)
    _tell(told, as_json)


@deploy_app.command()
def rollback(
    release: ReleaseName = "chat",
    namespace: Namespace = "default",
    revision: Annotated[int | None, typer.Option(help="of `helm history` [the newest one with another model]")] = None,
    alias: Alias = "production",
    url: Url = None,
    context: Context = None,
    helm: Program = "helm",
    timeout_s: Timeout = 3600,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Serve what an earlier revision served, ask it, and move the alias back to it."""
    use_store(store)
    settings: dict[str, Any] = {"target": "helm", "release": release, "namespace": namespace, "context": context}
    settings |= {"helm": helm, "url": url, "timeout_s": timeout_s}
    behind = _release(settings)
    to = behind.earlier(revision)
    served = behind.model(to).get("version")
    if not served:
        raise InputError(
            f"revision {to} of {release} names no model.version, so its model cannot be found in the registry: "
            f"`helm rollback {release} {to}` goes back, and `tokenmill rollback MODEL` moves the alias"
        )
    _tell(_through_the_steps("rollback", f"models:/{served}", settings | {"back_to": to}, alias), as_json)


def _through_the_steps(name: str, model: str, settings: dict[str, Any], alias: str) -> dict[str, Any]:
    """find → deploy → promote, as a run of its own: its events, its place in MLflow, its notification."""
    from tokenmill.deployment.deploy import DEPLOYMENT
    from tokenmill.deployment.promote import PROMOTION
    from tokenmill.deployment.register import REGISTRATION
    from tokenmill.pipelines.opening import close_run
    from tokenmill.steps import find, run_step
    from tokenmill.store import open_store
    from tokenmill.tracking import EventLog, RunRef

    store, run = open_store(), RunRef.new(name)
    tree: dict[str, Any] = {
        "deployment": {"find": {"model": model}, "deploy": {"execution": settings}, "promote": {"alias": alias}}
    }
    with EventLog(store, run, "open") as events:
        events.run_opened(config=tree)
    state, message = "FAILED", ""

    def perform(step: str, **inputs: Any) -> Any:
        config = find(step).config.at(step, tree["deployment"][step.partition(".")[2]])
        return run_step(step, config, inputs, store=store, run=run)["output"]

    def read(manifest: Any, document: str) -> dict[str, Any]:
        return dict(orjson.loads(store.get_blob(manifest.shard(document).blob)))

    try:
        registration = perform("deployment.find")
        registered = read(registration, REGISTRATION)
        served = perform(
            "deployment.deploy", release=store.get_manifest(registered["model"]), registration=registration
        )
        told = {"run": run.key} | read(served, DEPLOYMENT)
        if alias:
            told["promotion"] = read(
                perform("deployment.promote", registration=registration, deployment=served), PROMOTION
            )
        state = "SUCCEEDED" if told["ok"] else "FAILED"
        message = str(told["reason"])
        return told
    except UserError as failure:
        message = str(failure)
        raise
    finally:
        close_run(run.key, state, message)


def _examine(model: str, settings: dict[str, Any], as_json: bool) -> None:
    """The preflight alone."""
    from tokenmill.deployment.find import registered_release
    from tokenmill.deployment.on_cluster import Wanted
    from tokenmill.store import open_store
    from tokenmill.tracking import Registry

    if settings["target"] != "helm":
        raise ConfigError("--dry-run asks a cluster: it goes with --target helm")
    wanted = Wanted(*registered_release(Registry(open_store()), model))
    findings = _release(settings).examine(wanted)
    if as_json:
        typer.echo(orjson.dumps([vars(one) for one in findings], option=orjson.OPT_INDENT_2).decode())
    else:
        for one in findings:
            typer.echo(f"{'fine ' if one.ok else 'WRONG'}  {one.name:<10} {one.what}")
    raise typer.Exit(0 if all(one.ok for one in findings) else 1)


def _release(settings: dict[str, Any]) -> Any:
    from tokenmill.deployment.config import DeployExecution
    from tokenmill.deployment.on_cluster import Release
    from tokenmill.logs import Log

    return Release(DeployExecution.at("deployment.deploy.execution", settings), Log({"release": settings["release"]}))


def _tell(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
    else:
        typer.echo("\n".join(_lines(told)))
    raise typer.Exit(0 if told["ok"] else 1)


def _lines(told: dict[str, Any]) -> list[str]:
    helm = told.get("helm", {})
    lines = [f"model    {told['name']}/{told['version']}  {told['release'][:12]}"]
    if helm:
        came = f"revision {told['before']} → {helm['revision']}" if told["before"] else f"revision {helm['revision']}"
        lines.append(f"helm     {helm['release']} in {helm['namespace']}: {came}")
    lines += [f"canary   {line}" for line in told.get("canary", [])]
    if told.get("answer"):
        lines.append(f"asked    {told['question']} → {told['answer'].strip()}")
    lines.append("smoke    passed" if told["ok"] else f"failed   {told['reason']}")
    if moved := told.get("promotion"):
        lines.append(
            f"alias    {moved['alias']}: {moved['action']}, {moved['before'] or 'none'} → {moved['version'] or 'none'}"
        )
    return lines
