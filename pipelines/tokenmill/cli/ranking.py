"""Models beside each other: `tokenmill eval compare | board`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenmill.cli.evaluating import eval_app
from tokenmill.cli.inspecting import show as show_json
from tokenmill.cli.main import AsJson, Assignments, Preset, StoreUri, use_store
from tokenmill.errors import InputError

if TYPE_CHECKING:
    from tokenmill.manifest import Manifest
    from tokenmill.store import ArtifactStore


@eval_app.command()
def compare(
    before: Annotated[str, typer.Argument(help="an evaluation, or weights: then all evaluations of them")],
    after: Annotated[str, typer.Argument(help="the other one")],
    flips: Annotated[bool, typer.Option("--flips", help="name the questions that were gained and lost")] = False,
    preset: Preset = "nano",
    assignments: Assignments = None,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Two models on the same questions: paired differences with intervals, and which answers changed."""
    import orjson

    from tokenmill.cli.running import checked
    from tokenmill.evaluation.compare import COMPARISON
    from tokenmill.steps import configured, find, run_step
    from tokenmill.store import open_store
    from tokenmill.tracking import RunRef

    opened = open_store(use_store(store))
    config = configured(find("evaluation.compare"), preset, checked(preset, assignments))
    documents = []
    for old, new in _pairs(opened, before, after):
        given = {"before": [old], "after": [new]}
        made = run_step("evaluation.compare", config, given, store=opened, run=RunRef.new("eval", preset))["output"]
        told = orjson.loads(opened.get_blob(made.shard(COMPARISON).blob))
        documents.append({"comparison": made.digest} | told)
    if as_json:
        show_json(documents)
        return
    for document in documents:
        for suite in document["suites"]:
            typer.echo(_change(suite, document["flips"].get(suite["name"])))
            for way, ids in document["flips"].get(suite["name"], {}).items() if flips else ():
                typer.echo(f"  {way:<8}{', '.join(ids) or 'none'}")


def _change(suite: dict[str, Any], flips: dict[str, list[str]] | None) -> str:
    if suite["difference"] is None:
        return f"{suite['name']:<28}{'diverged':<44}{suite['n']:>6} questions"
    numbers = f"{suite['before']:.4g} → {suite['after']:.4g}"
    interval = f"{suite['difference']:+.4g} [{suite['low']:+.4g}, {suite['high']:+.4g}]"
    word = {True: "better", False: "worse", None: "within chance"}[suite["better"]]
    changed = f"  {len(flips['gained'])} gained, {len(flips['lost'])} lost" if flips else ""
    return f"{suite['name']:<28}{numbers:<20}{interval:<32}{word:<15}{suite['n']:>6} questions{changed}"


def _pairs(store: "ArtifactStore", before: str, after: str) -> "list[tuple[Manifest, Manifest]]":
    """Evaluations of the same questions in the same form and words."""
    sides = [_evaluations(store, named) for named in (before, after)]
    shared = [key for key in sides[0] if key in sides[1]]
    if not shared:
        raise InputError(
            f"{before} and {after} were not evaluated on the same questions, in the same form and with the same tokenizer; "
            "see `tokenmill eval run`"
        )
    return [(sides[0][key], sides[1][key]) for key in shared]


def _evaluations(store: "ArtifactStore", named: str) -> "dict[tuple[str, str, str], Manifest]":
    """Questions, tokenizer and form → the latest evaluation: of a model, or the one that is named."""
    from tokenmill.lineage import resolve

    manifest = store.get_manifest(resolve(store, named))
    if manifest.kind == "evaluation":
        found = [manifest]
    elif manifest.kind == "weights":
        found = _latest_last([store.get_manifest(child) for child in store.children(manifest.digest)])
    else:
        raise InputError(f"{named} is {manifest.kind}: give an evaluation, or weights")
    facts = [_facts(store, one) for one in found]
    keys = [(fact["questions"], fact["tokenizer"], fact["form"]) for fact in facts]
    return dict(zip(keys, found, strict=True))


@eval_app.command()
def board(
    suite: Annotated[
        str, typer.Argument(help="base or chat, with the report's scores; [all datasets of the store]")
    ] = "",
    questions: Annotated[
        list[str] | None, typer.Option(help="further questions, e.g. those a pipeline drew: digest or prefix")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="write the page there")] = None,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Models × suites with confidence intervals: all evaluations of the store's datasets, the latest of each model."""
    import os

    import orjson

    from tokenmill.evaluation import hub
    from tokenmill.evaluation.board import BOARD, PAGE, TEXT
    from tokenmill.evaluation.config import BoardConfig
    from tokenmill.lineage import resolve
    from tokenmill.steps import run_step
    from tokenmill.store import open_store
    from tokenmill.tracking import RunRef, deliver

    opened = open_store(use_store(store))
    asked = [one.questions.digest for one in hub.listed(opened)]
    asked += [resolve(opened, named) for named in questions or ()]
    children = (opened.get_manifest(child) for digest in asked for child in opened.children(digest))
    found = {manifest.digest: manifest for manifest in children if manifest.kind == "evaluation"}
    if not found:
        raise InputError("no model was evaluated on datasets of this store; see `tokenmill eval run`")
    run = RunRef.new("board", suite)
    given = {"evaluations": _latest_last(list(found.values()))}
    made = run_step("evaluation.board", BoardConfig(suite=suite), given, store=opened, run=run)["output"]
    page, told = (opened.get_blob(made.shard(name).blob) for name in (PAGE, BOARD if as_json else TEXT))
    if html:
        html.write_bytes(page)
    if os.environ.get("MLFLOW_TRACKING_URI"):
        deliver(opened, run.key)
    if as_json:
        show_json(orjson.loads(told))
    else:
        typer.echo(told.decode(), nl=False)


def _latest_last(manifests: "list[Manifest]") -> "list[Manifest]":
    evaluations = [manifest for manifest in manifests if manifest.kind == "evaluation"]
    return sorted(evaluations, key=lambda manifest: (manifest.observed.get("time", ""), manifest.digest))


def _facts(store: "ArtifactStore", evaluation: "Manifest") -> dict[str, Any]:
    import orjson

    from tokenmill.evaluation.evaluate import EVALUATION

    return dict(orjson.loads(store.get_blob(evaluation.shard(EVALUATION).blob)))
