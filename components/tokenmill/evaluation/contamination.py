"""Did the model see the questions? Its lineage says what it was trained on; a pass over that text gives the answer.

Two steps, because the action cache keys on contents: the effect walks the lineage, which is more than contents, and
writes down what it found; the step reads only what is written there.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tokenmill.errors import InputError
from tokenmill.evaluation.config import CollectConfig, ContaminationConfig
from tokenmill.evaluation.questions import suite_of
from tokenmill.lineage import upstream
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.overlap import OverlapIndex
from tokenmill.records import JSONL, Record, read_jsonl
from tokenmill.steps import StepContext, effect, step
from tokenmill.store import ArtifactStore, open_store

TRAINING_SETS, DECONTAMINATION = "training_sets.json", "decontamination.json"
TEXTS = ("corpus", "conversations", "preferences")
BARRIERS = (
    "tokenizer",
    "questions",
    "evaluation",
    "comparison",
    "verdict",
    "report",
    "decontamination",
    "training_log",
)
"""No training text reaches a model through artifacts of these kinds,"""
HELDOUT = "heldout"
"""nor through a role of this name, which training only measures."""


@effect("evaluation.collect_training_sets", version=1, kinds={"weights": "weights"})
def collect_training_sets(config: CollectConfig, weights: Manifest, ctx: StepContext) -> Draft:
    """Everything whose text the model was trained on, at any stage of its life; and the raw sources behind it.

    Of each way up the lineage the nearest artifact with text counts: what a filter dropped before was not trained on.
    """
    graph = upstream(ctx.store, weights.digest)
    sets: dict[str, dict[str, Any]] = {}
    seen, ahead = set[str](), [weights.digest]
    while ahead:
        digest = ahead.pop()
        if digest in seen:
            continue
        seen.add(digest)
        if digest not in graph.nodes:
            raise InputError(
                f"manifest {digest[:12]}, which {weights.digest[:12]} was trained from, is gone from {ctx.store.uri}: "
                "its contamination cannot be checked; train again, or evaluate without"
            )
        manifest = graph.nodes[digest]
        if manifest.kind in TEXTS:
            sets.setdefault(digest, _described(manifest))
        elif manifest.kind == "tokens":
            for parent in manifest.parents.get("corpus", ()):
                sets[parent + digest] = _described(graph.nodes[parent]) | {"tokens": digest}
        elif manifest.kind not in BARRIERS:
            ahead += [d for role, digests in manifest.parents.items() if role != HELDOUT for d in digests]
    found = sorted(sets.values(), key=lambda s: (s["kind"], s["step"], s["digest"], s["tokens"] or ""))
    sources = [source._asdict() for source in graph.sources]
    value = {"model": weights.content, "weights": weights.digest, "sets": found, "sources": sources}
    return ctx.write_json("training_sets", TRAINING_SETS, value, counts={"sets": len(found), "sources": len(sources)})


def _described(manifest: Manifest) -> dict[str, Any]:
    return {
        "digest": manifest.digest,
        "kind": manifest.kind,
        "step": manifest.step,
        "content": manifest.content,
        "records": manifest.counts.get("records", 0),
        "tokens": None,
    }


@step(
    "evaluation.contamination",
    version=2,
    kinds={"training_sets": "training_sets", "questions": "questions"},
)
def check_contamination(
    config: ContaminationConfig, training_sets: Manifest, questions: Manifest, ctx: StepContext
) -> Draft:
    """Look for every question in every training set, word for word."""
    index = OverlapIndex(config)
    asked: Counter[str] = Counter()
    for shard in questions.shards:
        suite = "/".join(suite_of(shard.name))
        if records := index.add_suite(suite, ctx.records(questions, shard)):
            asked[suite] += records
    index.build()
    lineage = ctx.read_json(training_sets, TRAINING_SETS)
    jobs = [_Job(ctx.store.uri, index, shard, tokens) for shard, tokens in _training_shards(ctx.store, lineage)]
    where: dict[str, str] = {}
    for job, hits in zip(jobs, ctx.parallel(_Job.run, jobs, "training shards"), strict=True):
        for name, document in sorted(hits.items()):
            where.setdefault(name, f"{job.shard.name} {document}")
    return _report(config, lineage, questions, index, asked, where, ctx)


def training_text(record: Record) -> str:
    """The text of a document, a conversation or a preference pair."""
    if "text" in record:
        return str(record["text"])
    parts: list[str] = []
    for field in ("prompt", "messages", "chosen", "rejected"):
        value = record.get(field)
        parts += [value] if isinstance(value, str) else [str(message["content"]) for message in value or ()]
    return "\n".join(parts)


def _training_shards(store: ArtifactStore, lineage: dict[str, Any]) -> Iterator[tuple[Shard, frozenset[str]]]:
    """Each shard of the training sets once, with the ids that were held out of training."""
    seen = set()
    for one in lineage["sets"]:
        heldout = frozenset[str]()
        if one["tokens"]:
            tokens = store.get_manifest(one["tokens"])
            rows = (row for shard in tokens.shards if shard.name.endswith(JSONL) for row in _rows(store, shard))
            heldout = frozenset(row["id"] for row in rows if row["heldout"])
        for shard in store.get_manifest(one["digest"]).shards:
            if shard.name.endswith(JSONL) and (shard.blob, heldout) not in seen:
                seen.add((shard.blob, heldout))
                yield shard, heldout


def _rows(store: ArtifactStore, shard: Shard) -> Iterator[Record]:
    return read_jsonl(store.blob_path(shard.blob))


class _Job:
    """One training shard, in a worker process."""

    def __init__(self, store: str, index: OverlapIndex, shard: Shard, heldout: frozenset[str]) -> None:
        self.store, self.index, self.shard, self.heldout = store, index, shard, heldout

    def run(self) -> dict[str, str]:
        """Question → the first document that holds it."""
        hits: dict[str, str] = {}
        for number, record in enumerate(_rows(open_store(self.store), self.shard)):
            if record.get("id") not in self.heldout:
                for name in self.index.find(training_text(record)):
                    hits.setdefault(name, str(record.get("id", f"record {number}")))
        return hits


def _report(
    config: ContaminationConfig,
    lineage: dict[str, Any],
    questions: Manifest,
    index: OverlapIndex,
    asked: Counter[str],
    where: dict[str, str],
    ctx: StepContext,
) -> Draft:
    found: dict[str, dict[str, Any]] = {}
    for suite, n in sorted(asked.items()):
        names = [name for name in where if name.rpartition("#")[0] == suite]
        short = sum(name.rpartition("#")[0] == suite for name in index.too_short)
        hits = {name.rpartition("#")[2]: where[name] for name in sorted(names)}
        found[suite] = {
            "questions": n,
            "too_short": short,
            "hits": len(hits),
            "share": round(len(hits) / n, 6),
            "where": hits,
        }
    value = {
        "model": lineage["model"],
        "questions": questions.content,
        "rule": {"ngram_words": config.ngram_words, "ngram_characters": config.ngram_characters},
        "training_sets": len(lineage["sets"]),
        "suites": found,
    }
    ctx.metrics({f"contaminated/{suite}": row["share"] for suite, row in found.items()})
    return ctx.write_json(
        "decontamination", DECONTAMINATION, value, counts={"questions": sum(asked.values()), "hits": len(where)}
    )
