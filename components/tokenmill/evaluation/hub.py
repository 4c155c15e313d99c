"""The datasets of a store: added once, named by a pin, evaluated like any other questions."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import Field

from tokenmill.config import Section
from tokenmill.errors import InputError
from tokenmill.evaluation.dataset import INFERENCERS, SHIPPED, Dataset, load
from tokenmill.evaluation.rendering import rendered, version
from tokenmill.lineage import resolve
from tokenmill.logs import Log
from tokenmill.manifest import Draft, Manifest
from tokenmill.records import write_jsonl
from tokenmill.steps.files import scratch, store_file
from tokenmill.steps.publish import publish
from tokenmill.store import ArtifactStore

STEP, VERSION = "evaluation.add", 1
_PINS = "datasets/"
SUITES = Path(__file__).parent / "suites"


class Suite(Section):
    """A named list of benchmarks that belong together."""

    description: str = Field(description="one line")
    form: str = Field(description="how its models are asked: plain or chat")
    models: tuple[str, ...] = Field(description="of the report, whose scores are shown beside")
    names: tuple[str, ...] = Field(description="of its datasets, in the order of the report's tables")
    not_asked: dict[str, str] = Field(
        default_factory=dict, description="benchmark of the report → why it is no dataset here"
    )

    @property
    def datasets(self) -> list[Dataset]:
        return [load(SHIPPED, shipped=name) for name in self.names]


def suites() -> list[str]:
    """Names of the suites that TokenMill ships."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def suite(name: str) -> Suite:
    """One of them. Raises InputError for another name."""
    if name not in suites():
        raise InputError(f"no suite {name!r}; there are {', '.join(suites())}")
    path = SUITES / f"{name}.yaml"
    return Suite.at(path.name, yaml.safe_load(path.read_text("utf-8")))


class Added(NamedTuple):
    """A dataset in a store."""

    name: str
    questions: Manifest

    @property
    def suite(self) -> str:
        return self.questions.shards[0].name.partition(".")[0]

    @property
    def facts(self) -> dict[str, str]:
        return dict(self.questions.facts["dataset"])


def add(store: ArtifactStore, dataset: Dataset, folder: Path) -> Added:
    """Bring a dataset into a store, in place of an earlier one of its name; what it was evaluated with stays."""
    shard, records = rendered(dataset, folder)
    told = {"licence": dataset.licence, "origin": dataset.origin or dataset.name}
    sources = publish(store, Draft(kind="sources", shards=(), facts={"sources": {dataset.name: told}}), STEP, VERSION)
    facts = {
        "group": dataset.group,
        "language": dataset.language,
        "licence": dataset.licence,
        "inferencer": dataset.inferencer,
    }
    with scratch() as work:
        path = work / "records" / Path(shard).name
        _, count = write_jsonl(path, records)
        draft = Draft(
            kind="questions",
            shards=(store_file(store, path, shard, count),),
            counts={"suites": 1, shard.partition(".")[0]: count},
            facts={"dataset": {"name": dataset.name, "version": version(dataset, folder), **facts}},
        )
    questions = publish(store, draft, STEP, VERSION, source=sources)
    store.pin(_PINS + dataset.name, questions.digest)
    return Added(dataset.name, questions)


def listed(store: ArtifactStore) -> list[Added]:
    """By name."""
    pins = {name.removeprefix(_PINS): digest for name, digest in store.pins().items() if name.startswith(_PINS)}
    return [Added(name, store.get_manifest(digest)) for name, digest in sorted(pins.items())]


class Chosen(NamedTuple):
    """What is to be asked."""

    questions: dict[str, Manifest]
    """By dataset; questions that were named by their digest, by that."""
    lacking: dict[str, list[str]]
    """Suite → its datasets that the store does not have."""


def chosen(store: ArtifactStore, names: Sequence[str]) -> Chosen:
    """Datasets, suites and digests as people name them; all datasets of the store where nothing is named.

    Raises:
        InputError: the store has nothing of that name, or nothing at all that was asked for.
    """
    added = {one.name: one.questions for one in listed(store)}
    found: dict[str, Manifest] = {}
    lacking: dict[str, list[str]] = {}
    unknown: list[str] = []
    for name in names or added:
        if name in added:
            found[name] = added[name]
        elif name in suites():
            own = suite(name).names
            found |= {one: added[one] for one in own if one in added}
            if missing := [one for one in own if one not in added]:
                lacking[name] = missing
        elif re.fullmatch(r"[0-9a-f]{4,64}", name):
            found[name[:12]] = _questions(store, name)
        else:
            unknown.append(name)
    if unknown:
        raise InputError(
            f"no dataset {', '.join(unknown)} in the store, which has {', '.join(added) or 'none'}; see `eval add`"
        )
    if not found:
        raise InputError("the store has no dataset; see `eval add`")
    return Chosen(found, lacking)


def loop_items(store: ArtifactStore, names: Sequence[str], tasks: Sequence[str]) -> list[dict[str, str]]:
    """What a KFP loop asks: `chosen` datasets, unless tasks of lm-eval alone are named; and those."""
    found, lacking = chosen(store, names) if names or not tasks else Chosen({}, {})
    for named, datasets in lacking.items():
        Log({"suite": named}).warning("not in the store, see `eval add`", datasets=datasets)
    items = [{"questions": asked.digest, "lm_eval": "", "suffix": f".{name}"} for name, asked in found.items()]
    return items + [{"questions": "", "lm_eval": name, "suffix": f".{name}"} for name in tasks]


def _questions(store: ArtifactStore, digest: str) -> Manifest:
    manifest = store.get_manifest(resolve(store, digest))
    if manifest.kind != "questions":
        raise InputError(f"{digest[:12]} is {manifest.kind}, no questions")
    return manifest


def suite_name(dataset: Dataset) -> str:
    """`<mode>/<name>`, as an evaluation has it."""
    return f"{INFERENCERS[dataset.inferencer]}/{dataset.name}"
