"""Commands that look into curation: why a document went, what each stage lost."""

from pathlib import Path
from typing import Annotated

import typer

from tokenmill.cli.inspecting import draw, existing_store, show
from tokenmill.cli.main import AsJson, StoreUri, app
from tokenmill.errors import InputError

curation_app = typer.Typer(help="Look into curation: why a document went, what each stage lost.", no_args_is_help=True)
app.add_typer(curation_app, name="curation")


@curation_app.command()
def explain(
    document: Annotated[str, typer.Argument(help="document id, or a beginning that only one document has")],
    run: Annotated[str | None, typer.Option(help="look into this run only")] = None,
    corpus: Annotated[str | None, typer.Option(help="look into this corpus and what it was made of only")] = None,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """A document's whole history: file, licence, what each stage did with it and why, the models that it reached."""
    from tokenmill.curation.explain import explain as history_of

    if run and corpus:
        raise InputError("give --run or --corpus, not both")
    history = history_of(existing_store(store), document, run=run, corpus=corpus)
    if as_json:
        show(history.to_json())
    else:
        draw(history.tree())


@curation_app.command()
def funnel(
    run: Annotated[str, typer.Argument(help="run key, as `tokenmill run` printed it")],
    output: Annotated[Path, typer.Option("--output", "-o", help=".html or .json")] = Path("funnel.html"),
    store: StoreUri = None,
) -> None:
    """Write the funnel of a run: what each stage of its curation kept, and what it dropped for which reason."""
    from tokenmill.tracking.events import read_events, read_run

    opened = existing_store(store)
    events = read_events(opened, read_run(opened, run).key)
    made = [
        e.data["outputs"]["output"]["digest"]
        for e in events
        if e.kind == "step_finished" and e.data["step"] == "curation.funnel"
    ]
    if not made:
        raise InputError(f"run {run} has no funnel: its step curation.funnel did not finish in {opened.uri}")
    page = opened.get_manifest(made[-1]).shard(f"funnel{output.suffix}")
    output.write_bytes(opened.get_blob(page.blob))
    typer.echo(output)
