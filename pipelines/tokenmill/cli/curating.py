"""Commands about a corpus and the rules that made it: `tokenmill curation …`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenmill.cli.inspecting import draw, existing_store, show
from tokenmill.cli.main import AsJson, StoreUri, app
from tokenmill.errors import InputError

if TYPE_CHECKING:
    from tokenmill.curation.diff_rules import RuleDiff

curation_app = typer.Typer(help="Look into a corpus: its rules, its documents.", no_args_is_help=True)
app.add_typer(curation_app, name="curation")


@curation_app.callback()
def curation() -> None:
    """Look into a corpus: its rules, its documents."""


RuleSetName = Annotated[str, typer.Argument(help="a rule set that comes with TokenMill, or a YAML file")]


@curation_app.command(name="diff-rules")
def diff_rules(
    a: RuleSetName,
    b: RuleSetName,
    corpus: Annotated[str, typer.Option(help="the corpus to compare on: digest or unique prefix, or manifest URI")],
    sample: Annotated[int, typer.Option(min=1, help="documents to compare on, drawn by their ids")] = 1000,
    kind: Annotated[str | None, typer.Option("--type", help="only documents of this type, as web")] = None,
    lang: Annotated[str | None, typer.Option(help="only documents in this language [that of rule set A]")] = None,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Which documents change sides between two rule sets, and by which rule. Takes what went into the filter."""
    from tokenmill.curation.diff_rules import diff_rules as compare
    from tokenmill.curation.diff_rules import sample as drawn
    from tokenmill.curation.rules import RuleSet
    from tokenmill.lineage import resolve
    from tokenmill.records import JSONL, read_jsonl

    rules = RuleSet.open(a), RuleSet.open(b)
    opened = existing_store(store)
    manifest = opened.get_manifest(resolve(opened, corpus))
    wanted = lang or (rules[0].lang if rules[0].lang != "any" else None)
    records = (
        record
        for shard in manifest.shards
        if shard.name.endswith(JSONL)
        for record in read_jsonl(opened.blob_path(shard.blob))
        if kind in (None, record["type"]) and wanted in (None, record["lang"])
    )
    found = compare(*rules, drawn(records, sample))
    if as_json:
        show(found.to_json())
    else:
        _tell(found)


def _tell(found: "RuleDiff") -> None:
    typer.echo(
        f"{found.compared:,} documents: both keep {found.kept_by_both:,} (with another text {found.texts_differ:,}), "
        f"both drop {found.dropped_by_both:,}, {len(found.changes):,} change sides"
    )
    for side, rules in found.reasons.items():
        told = ", ".join(f"{name} {times:,}" for name, times in rules.items())
        typer.echo(f"{side}: {sum(rules.values()):,}" + (f" ({told})" if told else ""))
    for change in found.changes:
        typer.echo(f"  {change.id}  {found.a}: {change.before} → {found.b}: {change.after}")
        typer.echo(f"    {change.excerpt}")


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
    from tokenmill.tracking.event_files import read_events
    from tokenmill.tracking.run import read_run

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
