"""Commands for the people between two rounds: `tokenmill annotations …`."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tokenmill.cli.inspecting import existing_store
from tokenmill.cli.main import StoreUri, app
from tokenmill.errors import InputError

if TYPE_CHECKING:
    from tokenmill.manifest import Manifest
    from tokenmill.store import ArtifactStore

annotations_app = typer.Typer(help="Let people compare answers; take back what they say.", no_args_is_help=True)
app.add_typer(annotations_app, name="annotations")


@annotations_app.callback()
def annotations() -> None:
    """Let people compare answers; take back what they say."""


@annotations_app.command()
def export(
    source: Annotated[str, typer.Argument(help="run key, or the responses of a probe: digest, unique prefix or URI")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the file to write; one that exists is not replaced")],
    form: Annotated[
        Literal["jsonl", "label-studio", "argilla"], typer.Option("--format", "-f", help="whose file it is")
    ] = "jsonl",
    most: Annotated[int, typer.Option("--pairs", min=1, help="pairs at most; those with the policy come first")] = 200,
    store: StoreUri = None,
) -> None:
    """Write pairs of answers of a run's last probe, in an order that does not tell whose they are."""
    from tokenmill.rlhf.annotation_formats import LABEL_STUDIO, write
    from tokenmill.rlhf.annotation_store import batch_pairs

    opened = existing_store(store)
    responses = _responses(opened, source)
    pairs = list(batch_pairs(opened, responses.digest).values())[:most]
    if not pairs:
        raise InputError(
            f"responses {responses.digest[:12]}: all models gave the same answers, there is nothing to compare"
        )
    files = {output: write(pairs, form)}
    if form == "label-studio":
        files[output.with_suffix(".xml")] = LABEL_STUDIO.encode()
    for path, data in files.items():
        if path.exists():
            raise InputError(f"{path} exists (labels may be in it): move it, or give another name")
        path.write_bytes(data)
    typer.echo(f"{len(pairs)} pairs of responses {responses.digest[:12]} → {', '.join(map(str, files))}")


@annotations_app.command(name="import")
def import_labels(
    files: Annotated[list[Path], typer.Argument(help="labelled files, of any of the formats that export writes")],
    store: StoreUri = None,
) -> None:
    """Take labels in. The next round, of this run or another, learns what the majority prefers."""
    from tokenmill.rlhf.annotation_formats import read
    from tokenmill.rlhf.annotation_store import add, batch_pairs, pseudonym

    opened = existing_store(store)
    for path in files:
        if not path.is_file():
            raise InputError(f"{path} does not exist")
        batches = cache(lambda batch: batch_pairs(opened, batch))
        labels = read(path.read_bytes(), path.name, batches, lambda name: pseudonym(opened, name))
        if not labels:
            raise InputError(f"{path.name}: nobody has labelled anything yet: fill in `choice`, `annotator` and `time`")
        new = add(opened, labels)
        skipped = sum(label.choice == "skip" for label in labels)
        again = "" if new else "; imported before, nothing changed"
        typer.echo(f"{path.name}: {len(labels)} labels, {skipped} of them skipped{again}")
    _tell(opened)


@annotations_app.command()
def status(store: StoreUri = None) -> None:
    """What is labelled so far, how far people agree, and who wins."""
    _tell(existing_store(store))


@annotations_app.command()
def retire(
    days: Annotated[float, typer.Option("--older-than", min=0, help="days since the import")],
    store: StoreUri = None,
) -> None:
    """Drop who said what when, of old imports; how many preferred what stays. Every snapshot does so by itself."""
    from tokenmill.rlhf.annotation_store import retire as drop

    typer.echo(f"{drop(existing_store(store), days)} imports: annotators and times dropped, counts kept")


def _responses(store: "ArtifactStore", source: str) -> "Manifest":
    """The answers of a run's last probe, or those that are named."""
    from tokenmill.lineage import resolve
    from tokenmill.tracking.event_files import read_events
    from tokenmill.tracking.run import has_run

    if has_run(store, source):
        events = [e for e in read_events(store, source) if e.kind == "step_finished" and e.data["step"] == "rlhf.probe"]
        if not events:
            raise InputError(
                f"run {source} has no answers to compare: its step rlhf.probe did not finish in {store.uri}"
            )
        return store.get_manifest(events[-1].data["outputs"]["responses"]["digest"])
    manifest = store.get_manifest(resolve(store, source))
    if manifest.kind != "responses":
        raise InputError(f"{source} is {manifest.kind}, not the responses of a probe: give those, or the key of a run")
    return manifest


def _tell(store: "ArtifactStore") -> None:
    from tokenmill.rlhf.annotation_store import labelled
    from tokenmill.rlhf.annotations import agreement, preferences, wins

    found = labelled(store)
    records, dropped = preferences(found.pairs, found.counts, min_labels=1)
    alpha = agreement(found.counts.values())
    rest = "".join(f", {number} {reason}" for reason, number in sorted(dropped.items()))
    typer.echo(
        f"in all: {len(found.counts)} pairs labelled by {found.annotators} people; {len(records)} preferences{rest}; "
        f"agreement {'unknown, no pair has two labels' if alpha is None else f'{alpha:.2f} (Krippendorff)'}"
    )
    for name, cast in wins(found.pairs, found.counts).items():
        typer.echo(f"  {name}: " + ", ".join(f"{winner} {number}" for winner, number in cast.most_common()))
