"""The domain set, decontaminated: what a benchmark asks is not trained on (report §3.3.3)."""

from collections import Counter
from collections.abc import Iterable, Iterator

from tokenmill.enhancement.config import PrepareConfig
from tokenmill.enhancement.decontamination import REPORT
from tokenmill.enhancement.mixture import fitting, mixed, once, shares_of
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.overlap import Asked, OverlapRule, count_by_suite
from tokenmill.records import Record
from tokenmill.steps import Drop, Keep, StepContext, step


@step("enhancement.prepare", version=3, kinds={"corpus": "corpus", "questions": "questions"})
def prepare(config: PrepareConfig, corpus: Manifest, questions: Manifest, ctx: StepContext) -> dict[str, Draft]:
    """Documents of the domain plus the best of the rest, without what evaluation asks word for word or reads."""
    asked = Asked.of(config, {shard.name: ctx.records(questions, shard) for shard in questions.shards})
    chosen = _chosen(config, ctx.records(corpus))
    hits = Counter[str]()
    draft = ctx.partition(_decontaminated(chosen, asked, hits))
    report = {
        "corpus": draft.content,
        "questions": questions.content,
        "looked_for": asked.looked_for,
        "rule": config.model_dump(mode="json", include=set(OverlapRule.model_fields)),
        "documents": len(chosen),
        "dropped": draft.dropped,
        "shares": shares_of(config, chosen),
        "hits": dict(sorted(hits.items())),
        "not_looked_for": dict(count_by_suite(asked.index.unsearchable)),
    }
    counts = {"hits": sum(hits.values()), "documents": len(chosen)}
    return {"corpus": draft, "decontamination": ctx.write_json("decontamination", REPORT, report, counts=counts)}


def _chosen(config: PrepareConfig, records: Iterable[Record]) -> list[Record]:
    """The mixture of `shares`; or without them the documents of the domain, and some of the best of the rest.

    With neither shares nor types it is all there is, once a document.
    """
    if config.shares:
        return mixed(config, config.shares, records, _quality)
    if not config.types:
        return list(once(records))
    domain, rest = list[Record](), list[Record]()
    for record in records:
        (domain if record["type"] in config.types else rest).append(record)
    if not domain:
        raise InputError(
            f"no document of type {' or '.join(config.types)} in the corpus; see enhancement.prepare.types"
        )
    best = sorted(rest, key=lambda r: (-_quality(r), r["id"]))
    size = sum(len(record["text"].encode()) for record in domain)
    return domain + list(fitting(best, size * config.high_quality_share / (1 - config.high_quality_share)))


def _decontaminated(records: Iterable[Record], asked: Asked, hits: Counter[str]) -> Iterator[Keep | Drop]:
    for record in records:
        found = asked.index.find(record["text"])
        hits.update(count_by_suite(found))
        if found:
            yield Drop("asked_by_evaluation", record, sorted(found)[:3], 0)
        elif record["id"] in asked.read:
            yield Drop("read_by_evaluation", record, record["id"], 0)
        else:
            yield Keep(record)


def _quality(record: Record) -> float:
    """Mean of the quality scores; documents that were not graded (books) count as good."""
    scores = [value for name, value in record.get("scores", {}).items() if name in {"fluency", "not_ad"}]
    return sum(scores) / len(scores) if scores else 1.0
