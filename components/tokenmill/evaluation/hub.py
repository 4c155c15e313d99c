"""The datasets of a store: added once, named by a pin, evaluated like any other questions."""

from pathlib import Path
from typing import NamedTuple

from tokenmill.evaluation.dataset import INFERENCERS, Dataset, rendered, version
from tokenmill.manifest import Draft, Manifest
from tokenmill.records import write_jsonl
from tokenmill.steps.context import scratch, store_file
from tokenmill.steps.runner import observed
from tokenmill.store import ArtifactStore

STEP, VERSION = "evaluation.add", 1
_PINS = "datasets/"


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
    sources = _issue(store, Draft(kind="sources", shards=(), facts={"sources": {dataset.name: told}}))
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
    questions = _issue(store, draft, source=sources)
    store.pin(_PINS + dataset.name, questions.digest)
    return Added(dataset.name, questions)


def listed(store: ArtifactStore) -> list[Added]:
    """By name."""
    pins = {name.removeprefix(_PINS): digest for name, digest in store.pins().items() if name.startswith(_PINS)}
    return [Added(name, store.get_manifest(digest)) for name, digest in sorted(pins.items())]


def suite_name(dataset: Dataset) -> str:
    """`<mode>/<name>`, as an evaluation has it."""
    return f"{INFERENCERS[dataset.inferencer]}/{dataset.name}"


def _issue(store: ArtifactStore, draft: Draft, **parents: Manifest) -> Manifest:
    digests = {role: (parent.digest,) for role, parent in parents.items()}
    manifest = Manifest.issue(draft, parents=digests, step=STEP, version=VERSION, config={}, observed=observed())
    store.put_manifest(manifest)
    return manifest
