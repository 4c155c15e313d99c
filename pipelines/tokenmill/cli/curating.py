"""Commands about a corpus and the rules that made it: `tokenmill curation …`."""

from typing import TYPE_CHECKING, Annotated

import typer

from tokenmill.cli.inspecting import existing_store, show
from tokenmill.cli.main import AsJson, StoreUri, app

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
