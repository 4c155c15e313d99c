"""Did the model see the questions? A pass over everything it was trained on gives the answer, question by question.

A question is labelled by the worst that was found of it: `input` where it stands in a training document, `input+label` where
its answer follows there (the labels of OpenCompass' contamination sets, report §5.4), `near` where a passage only rewords it,
else `clean`. Which training set it was found in stands beside it.
"""

import pickle
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from tokenmill.evaluation.config import ContaminationConfig
from tokenmill.evaluation.deltas import deltas as deltas  # the agreed place
from tokenmill.evaluation.questions import suite_of as mode_and_suite
from tokenmill.evaluation.search import LABELS, Search
from tokenmill.evaluation.training_sets import TRAINING_SETS
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.overlap import is_test, training_text
from tokenmill.overlap.index import suite_of
from tokenmill.overlap.sketch import Sketch
from tokenmill.records import JSONL, Record, read_jsonl, write_jsonl
from tokenmill.steps import StepContext, step
from tokenmill.store import ArtifactStore, open_store

DECONTAMINATION, ITEMS = "decontamination.json", f"items{JSONL}"


@step(
    "evaluation.contamination",
    version=5,
    kinds={"training_sets": "training_sets", "questions": "questions"},
)
def check_contamination(
    config: ContaminationConfig, training_sets: Manifest, questions: Manifest, ctx: StepContext
) -> Draft:
    """Look for every question in every training set: word for word, reworded, and with its answer."""
    search = Search(config)
    asked: dict[str, list[str]] = {}
    for shard in questions.shards:
        for record in ctx.records(questions, shard):
            suite = _suite(shard, record)
            search.add(suite, record)
            asked.setdefault(suite, []).append(record["id"])
    search.build()
    lineage = ctx.read_json(training_sets, TRAINING_SETS)
    index = ctx.workdir / "search.pickle"
    index.write_bytes(pickle.dumps(search))
    jobs = list(_jobs(ctx.store, lineage, index))
    findings = Findings(lineage["sets"], asked, search.unsearchable, search.near_for)
    for job, hits in zip(jobs, ctx.parallel(_Job.run, jobs, "training shards"), strict=True):
        findings.add(job.sets, job.shard, hits)
    return _report(config, lineage, questions, findings, ctx)


SPLIT = "@"
"""Between a suite and the split of its records that are no test: `contamination/maths@train`."""


def _suite(shard: Shard, record: Record) -> str:
    suite = "/".join(mode_and_suite(shard.name))
    return suite if is_test(record) else f"{suite}{SPLIT}{record['split']}"


# ---- one shard, in a worker process ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One training shard, which may be of several training sets."""

    store: str
    index: Path
    shard: Shard
    heldout: frozenset[str]
    """Ids of documents that were held out of training."""
    sets: tuple[int, ...]

    def run(self) -> dict[str, tuple[str, str]]:
        """Question → its label, and the first document that gives it that."""
        search, hits, store = _loaded(self.index), dict[str, tuple[str, str]](), open_store(self.store)
        records = _rows(store, self.shard)
        suspects = list(Sketch.remembered(store, self.shard, records).suspects(search.probes))
        for number, record in _among(_rows(store, self.shard), suspects):
            if record.get("id") not in self.heldout:
                for name, label in search.find(training_text(record)).items():
                    if name not in hits or LABELS.index(label) > LABELS.index(hits[name][0]):
                        hits[name] = label, str(record.get("id", f"record {number}"))
        return hits


@cache
def _loaded(path: Path) -> Search:
    """The questions, once a process: with each shard they would be sent again."""
    search: Search = pickle.loads(path.read_bytes())  # noqa: S301 - this step wrote it a moment ago
    return search


def _jobs(store: ArtifactStore, lineage: dict[str, Any], index: Path) -> Iterator[_Job]:
    """Each shard of the training sets once."""
    shards: dict[tuple[str, frozenset[str]], tuple[Shard, list[int]]] = {}
    for number, one in enumerate(lineage["sets"]):
        heldout = frozenset[str]()
        if one["tokens"]:
            tokens = store.get_manifest(one["tokens"])
            rows = (row for shard in tokens.shards if shard.name.endswith(JSONL) for row in _rows(store, shard))
            heldout = frozenset(row["id"] for row in rows if row["heldout"])
        for shard in store.get_manifest(one["digest"]).shards:
            if shard.name.endswith(JSONL):
                shards.setdefault((shard.blob, heldout), (shard, []))[1].append(number)
    for (_, heldout), (shard, sets) in shards.items():
        yield _Job(store.uri, index, shard, heldout, tuple(sets))


def _among(records: Iterable[Record], wanted: Sequence[range]) -> Iterator[tuple[int, Record]]:
    """The records of some stretches, with their numbers; nothing is read where there are none, or behind the last."""
    for stretch in wanted[-1:]:
        numbers = frozenset(number for one in wanted for number in one)
        for number, record in enumerate(islice(records, stretch.stop)):
            if number in numbers:
                yield number, record


def _rows(store: ArtifactStore, shard: Shard) -> Iterator[Record]:
    return read_jsonl(store.blob_path(shard.blob))


# ---- what was found --------------------------------------------------------------------------------------------------


@dataclass
class Findings:
    """Question by question, and training set by training set."""

    sets: Sequence[dict[str, Any]]
    asked: dict[str, list[str]]
    unsearchable: dict[str, str]
    """Questions that cannot be looked for → why."""
    near_for: set[str]
    """Questions that are looked for reworded too."""
    labels: dict[str, str] = field(default_factory=dict)
    where: dict[str, dict[int, tuple[str, str]]] = field(default_factory=lambda: defaultdict(dict))
    """Question → number of a training set → label, and shard and document."""

    def add(self, sets: Iterable[int], shard: Shard, hits: dict[str, tuple[str, str]]) -> None:
        for name, (label, document) in hits.items():
            if _worse(label, self.labels.get(name)):
                self.labels[name] = label
            for number in sets:
                if _worse(label, self.where[name].get(number, (None, ""))[0]):
                    self.where[name][number] = label, f"{shard.name} {document}"

    def items(self) -> Iterator[dict[str, Any]]:
        """A row a question."""
        for suite, ids in sorted(self.asked.items()):
            for one in ids:
                name = f"{suite}#{one}"
                found = [
                    {"set": self.sets[number]["digest"], "label": label, "where": where}
                    for number, (label, where) in sorted(self.where.get(name, {}).items())
                ]
                row = {"suite": suite, "id": one, "label": self.labels.get(name, LABELS[0]), "found": found}
                yield row | {"unsearchable": self.unsearchable[name]} if name in self.unsearchable else row

    def suites(self) -> dict[str, dict[str, Any]]:
        """Counts a suite: `hits` were found word for word, `near` reworded; `where` names the first place of each."""
        return {suite: self._counts(suite, ids) for suite, ids in sorted(self.asked.items())}

    def _counts(self, suite: str, ids: Sequence[str]) -> dict[str, Any]:
        names = {one: f"{suite}#{one}" for one in ids}
        counted = Counter(self.labels.get(name, LABELS[0]) for name in names.values())
        hits = counted["input"] + counted["input+label"]
        why_not = Counter(self.unsearchable.get(name) for name in names.values())
        found = {one: min(self.where[name].items())[1][1] for one, name in names.items() if name in self.labels}
        return {
            "questions": len(ids),
            "too_short": why_not["too_short"],
            "template_only": why_not["template_only"],
            "near_looked_for": len(self.near_for & set(names.values())),
            **{label: counted[label] for label in LABELS},
            "hits": hits,
            "share": round(hits / len(ids), 6),
            "near_share": round(counted["near"] / len(ids), 6),
            "where": dict(sorted(found.items())),
        }

    def by_set(self) -> list[dict[str, Any]]:
        """The training sets, each with its questions a suite and label; those with most word for word first."""
        counts: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in self.sets]
        for name, places in self.where.items():
            for number, (label, _) in places.items():
                counts[number][suite_of(name)][label] += 1
        told = [one | {"suites": dict(sorted(found.items()))} for one, found in zip(self.sets, counts, strict=True)]
        return sorted(told, key=lambda one: -sum(c["input"] + c["input+label"] for c in one["suites"].values()))


def _worse(label: str, than: str | None) -> bool:
    return than is None or LABELS.index(label) > LABELS.index(than)


def _report(
    config: ContaminationConfig, lineage: dict[str, Any], questions: Manifest, findings: Findings, ctx: StepContext
) -> Draft:
    suites = findings.suites()
    tests = {suite: row for suite, row in suites.items() if SPLIT not in suite}
    splits: dict[str, dict[str, Any]] = {}
    for suite, row in suites.items():
        base, _, split = suite.partition(SPLIT)
        if base.startswith("contamination/"):
            splits.setdefault(base.partition("/")[2], {})[split or "test"] = row
    value = {
        "model": lineage["model"],
        "questions": questions.content,
        "rule": config.model_dump(mode="json", exclude={"execution"}),
        "sets": findings.by_set(),
        "suites": tests,
        "splits": splits,
    }
    ctx.metrics({f"contaminated/{suite}": row["share"] for suite, row in tests.items()})
    ctx.metrics({f"near/{suite}": row["near_share"] for suite, row in tests.items()})
    folder = ctx.workdir / "decontamination"
    folder.mkdir()
    (folder / DECONTAMINATION).write_bytes(orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
    write_jsonl(folder / ITEMS, findings.items())
    counts = {
        "questions": sum(row["questions"] for row in tests.values()),
        "unsearchable": sum(row["too_short"] + row["template_only"] for row in tests.values()),
        "hits": sum(row["hits"] for row in tests.values()),
        "near": sum(row["near"] for row in tests.values()),
    }
    return ctx.write_files("decontamination", folder, counts=counts)
