"""Commands that look: lineage, diff, store, doctor, lock, schemas."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from tokenmill.cli.main import AsJson, StoreUri, app, use_store
from tokenmill.errors import InputError

if TYPE_CHECKING:
    from tokenmill.store import ArtifactStore
    from tokenmill.store.collection import Amount

Reference = Annotated[
    str, typer.Argument(help="digest or unique prefix, manifest URI, models:/name@alias; or both run:<key>")
]

store_app = typer.Typer(help="Look at the store, and clear away what nothing needs.", no_args_is_help=True)
app.add_typer(store_app, name="store")


def show(value: Any) -> None:
    """JSON for scripts."""
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode())


def draw(renderable: Any) -> None:
    """A tree whose lines are as long as they must be: a terminal wraps them, a pipe loses nothing."""
    from rich.console import Console

    Console(soft_wrap=True, width=1000).print(renderable)


def existing_store(uri: str | None) -> "ArtifactStore":
    """The store to look at; a misspelt address must not read as a store that holds nothing."""
    from tokenmill.store import open_store

    store = open_store(use_store(uri))
    if next(iter(store.backend.list()), None) is None:
        raise InputError(f"there is nothing in {store.uri}: name another with --store or TOKENMILL_STORE")
    return store


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

    opened = existing_store(store)
    try:
        graph: Any = downstream(opened, reference) if down else upstream(opened, reference)
    except InputError:
        if not down:
            raise
        graph = find_document(opened, reference)
        if not (graph.sightings or graph.dropped):
            raise InputError(
                f"{reference!r} is no artifact of {opened.uri}, and none holds a document of that id"
            ) from None
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

    found = compare(existing_store(store), before, after)
    if as_json:
        show(found.to_json())
    else:
        draw(found.tree())


@store_app.command()
def du(store: StoreUri = None, as_json: AsJson = False) -> None:
    """Bytes by kind of artifact."""
    from dataclasses import asdict

    from tokenmill.store import du as disk_use

    use = disk_use(existing_store(store))
    if as_json:
        show(asdict(use))
        return
    _amounts("areas of the store", use.areas)
    _amounts("blobs by kind of artifact", use.kinds | {"unreferenced": use.unreferenced})


def _amounts(title: str, amounts: Mapping[str, "Amount"]) -> None:
    typer.echo(f"{title:<28}{'objects':>10}{'bytes':>18}")
    for name, amount in sorted(amounts.items()):
        typer.echo(f"  {name:<26}{amount.objects:>10,}{amount.bytes:>18,}")


@store_app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    min_age_h: Annotated[float, typer.Option(min=0, help="hours that anything is kept, for runs in flight")] = 24.0,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Delete what no pin, registered model or live run needs."""
    from dataclasses import asdict

    from tokenmill.store import gc as collect

    report = collect(existing_store(store), min_age_s=min_age_h * 3600, dry_run=dry_run)
    if as_json:
        show(asdict(report) | {"bytes": report.bytes})
        return
    _amounts("would go" if dry_run else "deleted", report.deleted)
    typer.echo(f"kept: {report.kept_manifests:,} manifests with {report.kept_blobs:,} blobs")
    if report.unfinished:
        typer.echo(f"unfinished uploads {'found' if dry_run else 'cleared'}: {report.unfinished:,}")
    for digest in report.lost_parents:
        typer.echo(f"lost: {digest} is an ancestor of what is kept and not in this store")


@store_app.command()
def copy(
    target: Annotated[str, typer.Argument(help="URI of the other store; what is there stays")],
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Copy the store into another, blobs verified: a backup while runs write, and the way back. Again: what is new."""
    from dataclasses import asdict

    from tokenmill.store import copy_store, open_store

    done = copy_store(existing_store(store), open_store(target))
    if as_json:
        show(asdict(done))
        return
    _amounts("copied", done.copied)
    _amounts("was there", done.present)


@store_app.command()
def takedown(
    document: Annotated[str, typer.Argument(help="document id, as records and `lineage --down` have it")],
    reason: Annotated[str, typer.Option(help="why, for the record")],
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Leave a tombstone for a document, name every model that saw it, and leave it out of what is ingested from now on."""
    from tokenmill.takedown import take_down

    stone = take_down(existing_store(store), document, reason)
    if as_json:
        show(stone.model_dump(mode="json"))
        return
    typer.echo(f"{stone.document} was taken down at {stone.time}: {stone.reason}")
    typer.echo(f"it lies in {len(stone.artifacts)} artifacts and reached {len(stone.models)} models")
    for model in stone.models:
        known = f" ({', '.join(model.pins)})" if model.pins else ""
        typer.echo(f"  {model.step} {model.digest}{known} through its {model.through}")
    if stone.source:
        typer.echo(
            f"the next run leaves it out of {stone.source}/{stone.path}; what exists stays until it is collected"
        )
    else:
        typer.echo("no corpus tells which registered file it was read from: nothing leaves it out of the next run")


@app.command()
def doctor(
    store: StoreUri = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="of the Kubernetes cluster instead: what the charts need")
    ] = False,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="of the platform; default: the context's")
    ] = None,
    context: Annotated[str | None, typer.Option(help="of the kubeconfig; default: the current one")] = None,
    as_json: AsJson = False,
) -> None:
    """What is installed, reachable and missing here, with the fix. Exits with 2 when something required is missing."""
    from tokenmill.cli.cluster_doctor import examine_cluster
    from tokenmill.cli.doctor import examine

    findings = examine_cluster(namespace, context) if cluster else examine(use_store(store))
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
