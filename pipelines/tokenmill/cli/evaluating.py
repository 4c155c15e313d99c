"""Commands about datasets: `tokenmill eval list | show | add`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenmill.cli.inspecting import show as show_json
from tokenmill.cli.main import AsJson, StoreUri, app, use_store
from tokenmill.errors import InputError

if TYPE_CHECKING:
    from tokenmill.evaluation.dataset import Dataset

eval_app = typer.Typer(help="Datasets that models are evaluated on.", no_args_is_help=True)
app.add_typer(eval_app, name="eval")

Named = Annotated[
    str, typer.Option("--as", metavar="NAME", help="ask as the benchmark of this name is asked; see `eval list`")
]


@eval_app.callback()
def eval_() -> None:
    """Datasets that models are evaluated on."""


@eval_app.command(name="list")
def list_(store: StoreUri = None, as_json: AsJson = False) -> None:
    """The datasets of the store, and the benchmarks whose data you can add."""
    from tokenmill.evaluation import hub
    from tokenmill.store import open_store

    added = hub.listed(open_store(use_store(store)))
    known = _shipped()
    if as_json:
        show_json(
            {
                "added": [one.facts | {"suite": one.suite, "questions": one.questions.digest} for one in added],
                "known": [_told(dataset) for dataset in known],
            }
        )
        return
    for one in added:
        count = sum(shard.records for shard in one.questions.shards)
        typer.echo(f"{one.suite:<28}{count:>7} questions  {one.facts['group']:<10}{one.questions.digest[:12]}")
    typer.echo(f"\n{len(added)} in the store. Known, if you have the data (`tokenmill eval add FOLDER --as NAME`):")
    for dataset in known:
        typer.echo(
            f"  {dataset.name:<14}{_shots(dataset):<8}{dataset.inferencer:<11}{dataset.group:<10}{dataset.description}"
        )


@eval_app.command()
def show(
    dataset: Annotated[str, typer.Argument(help="a folder with dataset.yaml; or a benchmark's name")],
    as_json: AsJson = False,
) -> None:
    """How a dataset is asked; of a folder also the first question, as a model reads it."""
    from tokenmill.evaluation import hub
    from tokenmill.evaluation.dataset import load, rendered

    folder = Path(dataset)
    found = load(folder) if folder.is_dir() else load(folder, shipped=dataset)
    first = rendered(found, folder)[1][0] if folder.is_dir() else None
    if as_json:
        show_json(_told(found) | {"suite": hub.suite_name(found), "first": first})
        return
    for name, value in _told(found).items():
        typer.echo(f"{name:<18}{value}")
    if first:
        asked = first.get("shots", "") + (first.get("question") or first["text"])
        typer.echo(f"\n{asked}\n\n→ {first.get('answer', first.get('test', 'the loss'))}")


@eval_app.command()
def add(
    folder: Annotated[Path, typer.Argument(help="folder with dataset.yaml and the records that it names")],
    named: Named = "",
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Check a dataset and bring it into the store, as questions that `evaluation.evaluate` takes."""
    from tokenmill.evaluation import hub
    from tokenmill.evaluation.dataset import load
    from tokenmill.store import open_store

    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    made = hub.add(open_store(use_store(store)), load(folder, shipped=named or None), folder)
    if as_json:
        show_json(made.facts | {"suite": made.suite, "questions": made.questions.digest})
        return
    typer.echo(f"{made.suite}: {made.questions.digest}  {made.questions.shards[0].records} questions")
    typer.echo(f"hand on   --input questions={made.questions.digest[:12]}")


def _shipped() -> "list[Dataset]":
    from tokenmill.evaluation.dataset import SHIPPED, load

    return [load(SHIPPED, shipped=path.stem) for path in sorted(SHIPPED.glob("*.yaml"))]


def _told(dataset: "Dataset") -> dict[str, Any]:
    return dataset.model_dump(mode="json", exclude_defaults=True)


def _shots(dataset: "Dataset") -> str:
    return f"{dataset.few_shot.n if dataset.few_shot else 0}-shot"
