"""Commands for people's eyes: ui, report, track."""

import os
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from tokenmill.cli.main import AsJson, StoreUri, app, use_store

RUNS = "#/experiments?workflowType=machine_learning"
"""Where MLflow 3 shows experiments with runs and losses; by itself it opens pages of traces, of which there are none."""


@app.command()
def ui(
    store: StoreUri = None,
    port: Annotated[int, typer.Option(help="loopback port")] = 5000,
) -> None:
    """MLflow's UI over the runs of this store (Ctrl-C ends it)."""
    from tokenmill.store import open_store
    from tokenmill.tracking.connection import tracking_uri

    uri = tracking_uri(open_store(use_store(store)))
    if uri.startswith("http"):
        typer.echo(f"MLflow is at {uri}")
        return
    typer.echo(f"MLflow on http://127.0.0.1:{port}/{RUNS} over {uri}")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    os.execv(command[0], command)


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="run key, as `tokenmill run` printed it")],
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("report.html"),
    store: StoreUri = None,
) -> None:
    """Write a run's page: funnel, losses, rewards, evaluation, verdict, lineage."""
    from tokenmill.report import collect, render
    from tokenmill.store import open_store

    output.write_text(render(collect(open_store(use_store(store)), run)))
    typer.echo(output)


@app.command()
def track(
    run: Annotated[str, typer.Argument(help="run key")],
    again: Annotated[bool, typer.Option("--again", help="deliver everything anew, e.g. to a fresh MLflow")] = False,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Bring MLflow up to date with a run's events, e.g. after it was away."""
    from tokenmill.store import open_store
    from tokenmill.tracking import deliver

    done = deliver(open_store(use_store(store)), run, again=again)
    if as_json:
        typer.echo(orjson.dumps(done._asdict(), option=orjson.OPT_INDENT_2).decode())
        return
    typer.echo(f"{done.events} events → run {done.run_id} in experiment {done.experiment}")
