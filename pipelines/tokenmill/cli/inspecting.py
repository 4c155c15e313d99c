"""Commands that look: lineage, diff, store, doctor, lock, schemas."""

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from tokenmill.cli.main import AsJson, StoreUri, app, use_store
from tokenmill.errors import InputError

Reference = Annotated[str, typer.Argument(help="digest or unique prefix, manifest URI, models:/name@alias")]

store_app = typer.Typer(help="Look at the store, and clear away what nothing needs.", no_args_is_help=True)
app.add_typer(store_app, name="store")


def show(value: Any) -> None:
    """JSON for scripts."""
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode())


def draw(renderable: Any) -> None:
    from rich.console import Console

    Console(soft_wrap=True).print(renderable)


@app.command()
def lineage(
    reference: Annotated[
        str, typer.Argument(help="manifest (digest, URI, models:/name@alias); with --down also a document id")
    ],
    down: Annotated[bool, typer.Option("--down", help="everything made of it, instead of what it was made of")] = False,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """From a model up to its raw sources and licences; or down from a document to every model that saw it."""
    from tokenmill.lineage import downstream, find_document, upstream
    from tokenmill.store import open_store

    opened = open_store(use_store(store))
    try:
        graph: Any = downstream(opened, reference) if down else upstream(opened, reference)
    except InputError:
        if not down:
            raise
        graph = find_document(opened, reference)
    if as_json:
        show(graph.to_json())
        return
    draw(graph.tree(downstream=True) if down and hasattr(graph, "nodes") else graph.tree())
    if not down:
        for source in graph.sources:
            typer.echo(f"source {source.name}: {source.licence}, {source.origin}")


@app.command()
def diff(before: Reference, after: Reference, store: StoreUri = None, as_json: AsJson = False) -> None:
    """What changed between two artifacts, runs or releases, and what that changed."""
    from tokenmill.lineage import diff as compare
    from tokenmill.store import open_store

    found = compare(open_store(use_store(store)), before, after)
    if as_json:
        show(found.to_json())
    else:
        draw(found.tree())


@store_app.command()
def du(store: StoreUri = None, as_json: AsJson = False) -> None:
    """Bytes by kind of artifact."""
    from dataclasses import asdict

    from tokenmill.store import du as disk_use
    from tokenmill.store import open_store

    use = asdict(disk_use(open_store(use_store(store))))
    if as_json:
        show(use)
        return
    for name, value in use.items():
        if isinstance(value, dict):
            for kind, size in sorted(value.items()):
                typer.echo(f"{name:<12} {kind:<16} {size}")
        else:
            typer.echo(f"{name:<12} {value}")


@store_app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    min_age_h: Annotated[float, typer.Option(help="hours that anything is kept, for runs in flight")] = 24.0,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Delete what no pin, registered model or live run needs."""
    from dataclasses import asdict

    from tokenmill.store import gc as collect
    from tokenmill.store import open_store

    report = collect(open_store(use_store(store)), min_age_s=min_age_h * 3600, dry_run=dry_run)
    if as_json:
        show(asdict(report))
        return
    for name, value in asdict(report).items():
        typer.echo(f"{name:<20} {value}")


@app.command()
def doctor(store: StoreUri = None, as_json: AsJson = False) -> None:
    """What is installed, reachable and missing here, with the fix. Exits with 2 when something required is missing."""
    from tokenmill.cli.doctor import examine

    findings = examine(use_store(store))
    if as_json:
        show([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            mark = "ok " if finding.ok else ("MISSING" if finding.required else "absent ")
            typer.echo(f"{mark:<8}{finding.name:<22}{finding.what}" + ("" if finding.ok else f"  → {finding.fix}"))
    if any(f.required and not f.ok for f in findings):
        raise typer.Exit(2)


@app.command()
def lock(
    same_behaviour: Annotated[
        list[str] | None, typer.Option("--same-behaviour", metavar="STEP|all", help="the change alters no output of it")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="only say what is not up to date")] = False,
) -> None:
    """Bring steps.lock up to date: for a step whose code moved, a new version or an explicit --same-behaviour."""
    from tokenmill.steps.lock import read_lock, refresh, write_lock

    path = Path("steps.lock")
    known = read_lock(path)
    entries, problems = refresh(known, same_behaviour or [])
    if problems:
        raise InputError("\n".join(problems))
    if not check:
        write_lock(path, entries)
        typer.echo(f"{path}: {len(entries)} steps")
    elif entries != known:
        moved = sorted(name for name in known.keys() | entries.keys() if known.get(name) != entries.get(name))
        raise InputError(f"{path} is behind for {', '.join(moved)}: run `tokenmill lock`")


@app.command()
def schemas(folder: Annotated[Path, typer.Argument(help="where to write them")] = Path("docs/schemas")) -> None:
    """Write the JSON Schemas of presets and of the files in a store."""
    from tokenmill.schemas import as_files

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in as_files().items():
        (folder / name).write_text(text)
        typer.echo(folder / name)
