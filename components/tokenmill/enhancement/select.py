"""The domain set, decontaminated: what a benchmark asks is not trained on (report §3.3.3)."""

from collections import Counter
from collections.abc import Iterable, Iterator

from tokenmill.enhancement.config import SelectConfig
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.overlap import OverlapIndex, count_by_suite
from tokenmill.records import Record
from tokenmill.steps import Drop, Keep, StepContext, step

REPORT = "decontamination.json"


@step("enhancement.select", version=2, kinds={"corpus": "corpus", "questions": "questions"})
def select(config: SelectConfig, corpus: Manifest, questions: Manifest, ctx: StepContext) -> dict[str, Draft]:
    """Documents of the domain plus the best of the rest, without those that hold a question word for word."""
    index = question_index(config, questions, ctx)
    domain, rest = list[Record](), list[Record]()
    for record in ctx.records(corpus):
        (domain if record["type"] in config.types else rest).append(record)
    if not domain:
        raise InputError(f"no document of type {' or '.join(config.types)} in the corpus; see enhancement.select.types")
    chosen = domain + list(_best(rest, _bytes(domain) * config.high_quality_share / (1 - config.high_quality_share)))
    hits = Counter[str]()
    draft = ctx.partition(_decontaminated(chosen, index, hits))
    report = {
        "documents": len(chosen),
        "dropped": draft.counts["dropped"],
        "hits": dict(sorted(hits.items())),
        "not_looked_for": dict(count_by_suite(index.too_short)),
        "rule": config.model_dump(mode="json", include={"ngram_words", "ngram_characters", "min_words", "max_sharing"}),
    }
    counts = {"hits": sum(hits.values()), "documents": len(chosen)}
    return {"corpus": draft, "decontamination": ctx.write_json("decontamination", REPORT, report, counts=counts)}


def question_index(config: SelectConfig, questions: Manifest, ctx: StepContext) -> OverlapIndex:
    """Everything that evaluation will ask or read, the held-out documents it measures perplexity on among it."""
    index = OverlapIndex(config)
    for shard in questions.shards:
        index.add_suite(shard.name.partition(".")[0], ctx.records(questions, shard))
    index.build()
    return index


def _decontaminated(records: Iterable[Record], index: OverlapIndex, hits: Counter[str]) -> Iterator[Keep | Drop]:
    for record in records:
        found = index.find(record["text"])
        hits.update(count_by_suite(found))
        yield Drop("asked_by_evaluation", record, sorted(found)[:3], 0) if found else Keep(record)


def _best(records: list[Record], size: float) -> Iterator[Record]:
    """The best graded documents, up to `size` bytes."""
    for record in sorted(records, key=lambda r: (-_quality(r), r["id"])):
        if size <= 0:
            return
        size -= len(record["text"].encode())
        yield record


def _quality(record: Record) -> float:
    """Mean of the quality scores; documents that were not graded (books) count as good."""
    scores = [value for name, value in record.get("scores", {}).items() if name in {"fluency", "not_ad"}]
    return sum(scores) / len(scores) if scores else 1.0


def _bytes(records: list[Record]) -> int:
    return sum(len(record["text"].encode()) for record in records)
