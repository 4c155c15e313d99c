"""Commands about datasets: `tokenmill eval list | show | add | twins | run`; `compare` and `board` are in `ranking`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenmill.cli.inspecting import show as show_json
from tokenmill.cli.main import AsJson, Assignments, Preset, StoreUri, app, use_store
from tokenmill.errors import InputError

if TYPE_CHECKING:
    from tokenmill.evaluation.dataset import Dataset
    from tokenmill.manifest import Manifest
    from tokenmill.store import ArtifactStore

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
    for name in hub.suites():
        suite = hub.suite(name)
        typer.echo(f"\nSuite {name}: {suite.description}; {', '.join(suite.names)}")
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
    from tokenmill.evaluation.dataset import load
    from tokenmill.evaluation.rendering import rendered

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


@eval_app.command()
def twins(
    folder: Annotated[Path, typer.Argument(help="folder with dataset.yaml, which names a reference in `splits`")],
    seed: Annotated[int | None, typer.Option(help="of the draw; far from the tests' own [1000003]")] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="have a chat model rewrite the tests")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="its name there")] = None,
    field: Annotated[str, typer.Option(help="of a record, which is rewritten")] = "question",
) -> None:
    """Make a reference for Δ1: the tests' tasks drawn again with other numbers, or the tests in other words."""
    from tokenmill.evaluation.dataset import load
    from tokenmill.evaluation.rendering import read
    from tokenmill.evaluation.twins import SEED, Twins, redrawn, rewritten
    from tokenmill.judge import Endpoint
    from tokenmill.records import line_of

    dataset = load(folder)
    if not (name := dataset.splits.get("reference")):
        raise InputError(f"{folder / 'dataset.yaml'}: say where twins go: `splits: {{reference: twins.jsonl}}`")
    if (path := folder / name).exists():
        raise InputError(f"{path} is there already: remove it to make others")
    if bool(endpoint) != bool(model):
        raise InputError("--endpoint and --model go together")
    tests = [record for _, record in read(folder / dataset.records)]
    if endpoint and model:
        made = rewritten(tests, Endpoint(endpoint, model), model, field)
    else:
        train = read(folder / dataset.splits["train"]) if "train" in dataset.splits else ()
        made = Twins(redrawn(tests, [str(record.get("question")) for _, record in train], seed or SEED), [])
    for file, rows in ((path, made.made), (path.with_suffix(".rejected.jsonl"), made.rejected)):
        if rows:
            file.write_bytes(b"".join(map(line_of, rows)))
    typer.echo(f"{path}: {len(made.made)} twins of {len(tests)} tests, {len(made.rejected)} rejected")


@eval_app.command()
def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="datasets of the store, suites (base, chat), or digests of questions [all datasets]"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="of the model, or its release: digest or prefix, URI, models:/name@alias; what an endpoint serves"
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="that it was trained with [the one in the weights' lineage]")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="ask the model served there (vLLM)")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="its name at the endpoint")] = None,
    preset: Preset = "nano",
    assignments: Assignments = None,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on datasets of the store; what fails on one is told, and the others go on."""
    from tokenmill.cli.running import checked
    from tokenmill.evaluation import hub
    from tokenmill.model.exchange import model_of
    from tokenmill.steps import configured, find
    from tokenmill.store import open_store

    opened = open_store(use_store(store))
    if endpoint and not model:
        raise InputError("--endpoint wants --model: the name that the model has there")
    if not endpoint and not weights:
        raise InputError("give --weights; or --endpoint and --model, of a model that is served")
    step = "evaluation.evaluate_endpoint" if endpoint else "evaluation.evaluate"
    given = model_of(opened, weights or "", tokenizer or "")
    served = {"model": model, "execution": {"url": endpoint}} if endpoint else {}
    overrides = _form_of(names) | checked(preset, assignments)
    config = configured(find(step), preset, overrides, served)
    chosen = hub.chosen(opened, names or [])
    for suite, lacking in chosen.lacking.items():
        typer.echo(f"suite {suite}: not in the store, see `eval add`: {', '.join(lacking)}", err=True)
    rows = []
    for name, questions in chosen.questions.items():
        try:
            found = _suites(opened, step, preset, config, given | {"questions": questions})
            more = [{"dataset": name, "suite": suite} | numbers for suite, numbers in found]
        except Exception as failure:  # another dataset's numbers are no less true
            more = [{"dataset": name, "failed": f"{type(failure).__name__}: {failure}"}]
        rows += more
        if not as_json:
            typer.echo("\n".join(_line(row if len(more) == 1 else row | {"dataset": row["suite"]}) for row in more))
    if as_json:
        show_json(rows)
    if failed := [row["dataset"] for row in rows if "failed" in row]:
        raise InputError(f"{len(failed)} of {len(rows)} datasets failed: {', '.join(failed)}")


@eval_app.command("lm-eval")
def lm_eval(
    tasks: Annotated[list[str], typer.Argument(help="lm-eval's names of tasks")],
    weights: Annotated[str | None, typer.Option(help="of the model: digest or prefix, URI, models:/name@alias")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="that it was trained with [the one in its lineage]")] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="ask the model served there (vLLM)")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="its name at the endpoint")] = None,
    include_path: Annotated[Path | None, typer.Option(help="folder with tasks of your own")] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="[what the task says]")] = None,
    limit: Annotated[int | None, typer.Option(help="of each task only the first so many questions")] = None,
    preset: Preset = "nano",
    assignments: Assignments = None,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Run tasks of EleutherAI's lm-eval on a model, with its prompts and metrics (extra `lm-eval`)."""
    from tokenmill.cli.running import checked
    from tokenmill.model.exchange import model_of
    from tokenmill.steps import configured, find
    from tokenmill.store import open_store

    opened = open_store(use_store(store))
    given = model_of(opened, weights or "", tokenizer or "")
    own: dict[str, Any] = {
        "tasks": tasks,
        "num_fewshot": num_fewshot,
        "limit": limit,
        "model": model or "",
        "execution": {"url": endpoint or "", "include_path": str(include_path or "")},
    }
    config = configured(find("evaluation.lm_eval"), preset, checked(preset, assignments), own)
    rows = [{"dataset": suite} | found for suite, found in _suites(opened, "evaluation.lm_eval", preset, config, given)]
    if as_json:
        show_json(rows)
        return
    for row in rows:
        typer.echo(_line(row))


def _form_of(names: list[str] | None) -> dict[str, Any]:
    """A suite's own form, where it alone is named: base models are asked plainly, chat models as in a chat."""
    from tokenmill.evaluation import hub

    alone = names[0] if names and len(names) == 1 else ""
    return {"evaluation.evaluate.form": hub.suite(alone).form} if alone in hub.suites() else {}


def _suites(
    store: "ArtifactStore", step: str, preset: str, config: Any, inputs: "dict[str, Manifest]"
) -> list[tuple[str, dict[str, Any]]]:
    """Suite → its numbers, and the evaluation that has them."""
    import orjson

    from tokenmill.evaluation.evaluate import EVALUATION
    from tokenmill.steps import run_step
    from tokenmill.tracking import RunRef

    given = {role: [manifest] for role, manifest in inputs.items()}
    made = run_step(step, config, given, store=store, run=RunRef.new("eval", preset))["output"]
    found = orjson.loads(store.get_blob(made.shard(EVALUATION).blob))
    compared = {f"contamination/{suite}": _deltas(splits) for suite, splits in found["contamination"].items()}
    return [(suite, {"evaluation": made.digest} | numbers) for suite, numbers in (found["suites"] | compared).items()]


def _deltas(splits: dict[str, Any]) -> dict[str, Any]:
    """Δ1 where there is a reference, else Δ2, with its 95% interval; and all that was measured."""
    name = "delta1" if "delta1" in splits else "delta2"
    value, reach = splits[name]["value"], 1.96 * splits[name]["se"]
    told = {"metric": "Δ1" if name == "delta1" else "Δ2", "value": value, "n": splits["test"]["n"], "splits": splits}
    return told | {"ci_low": value - reach, "ci_high": value + reach}


def _line(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"{row['dataset']:<24}failed: {row['failed']}"
    low, high = row["ci_low"], row["ci_high"]
    value = "diverged" if row["value"] is None else f"{row['value']:.4g} [{low:.4g}, {high:.4g}]"
    line = f"{row['dataset']:<24}{row['metric']:<11} {value:<28}{row['n']:>6} questions  {row['evaluation'][:12]}"
    if row["metric"] == "Δ1" and (other := row["splits"].get("delta2")):
        line += f"  Δ2 {other['value']:+.4g} ± {other['se']:.2g}"
    return line


def _shipped() -> "list[Dataset]":
    from tokenmill.evaluation.dataset import SHIPPED, load

    return [load(SHIPPED, shipped=path.stem) for path in sorted(SHIPPED.glob("*.yaml"))]


def _told(dataset: "Dataset") -> dict[str, Any]:
    return dataset.model_dump(mode="json", exclude_defaults=True)


def _shots(dataset: "Dataset") -> str:
    return f"{dataset.few_shot.n if dataset.few_shot else 0}-shot"
