"""Documents of a domain out of a corpus, by seed questions and BM25 (report §3.3.3; the way of Query of CC).

Exact and of bounded memory: a first pass counts the questions' words in every shard, which gives the whole corpus's
document frequencies; a second one ranks shard by shard what the first has counted. The formula is Lucene's.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from tokenmill.curation.config import RetrieveConfig
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.overlap import question_text
from tokenmill.records import JSONL, Record, read_jsonl
from tokenmill.steps import Drop, Keep, StepContext, step
from tokenmill.store import open_store

REPORT = "retrieval.json"
TOLD = ("id", "type", "lang", "source", "path")

_TERM = re.compile(r"[㐀-䶿一-鿿\uf900-\ufaff]+|[^\W㐀-䶿一-鿿\uf900-\ufaff]+")
_HAN = re.compile(r"[㐀-䶿一-鿿\uf900-\ufaff]")


@step(
    "curation.retrieve", version=2, libraries=("numpy",),
    kinds={"corpus": "corpus", "questions": ("questions", "corpus", "conversations")},
)  # fmt: skip
def retrieve(config: RetrieveConfig, corpus: Manifest, questions: Manifest, ctx: StepContext) -> dict[str, Draft]:
    """The documents that rank among the first for a seed question; and what each question found."""
    seeds = seed_questions(config, ctx.records(questions))
    if not seeds:
        raise InputError(f"no question in {questions.kind} {questions.digest[:12]}: retrieval needs seed questions")
    found = _rank(config, seeds, corpus, ctx)
    hits = ctx.workdir / "hits.json"
    hits.write_bytes(orjson.dumps(_by_document(config, found)))
    draft = ctx.map_shards(corpus, Retrieved(hits))
    report = {
        "category": config.category,
        "documents": draft.counts["records"],
        "questions": [
            {"id": seed.id, "found": len(hits), "best": hits[0].score if hits else None}
            for seed, hits in zip(seeds, found, strict=True)
        ],
    }
    counts = {"questions": len(seeds), "documents": draft.counts["records"]}
    return {"corpus": draft, "report": ctx.write_json("report", REPORT, report, counts=counts)}


class Seed(NamedTuple):
    id: str
    terms: dict[str, int]
    """Term → how often the question holds it."""


class Hit(NamedTuple):
    score: float
    document: str


def seed_questions(config: RetrieveConfig, records: Iterable[Record]) -> list[Seed]:
    """Questions by id, each with its terms; what has no terms asks nothing."""
    seeds = (Seed(str(record["id"]), dict(Counter(terms(question_text(record))))) for record in records)
    return sorted((seed for seed in seeds if seed.terms), key=lambda seed: seed.id)


def terms(text: str) -> list[str]:
    """Lower-cased words; of Chinese every two neighbouring characters (a lone one for itself)."""
    found: list[str] = []
    text = text.lower()
    if not _HAN.search(text):
        return _TERM.findall(text)
    for run in _TERM.findall(text):
        if _HAN.match(run) and len(run) > 1:
            found += map("".join, pairwise(run))
        else:
            found.append(run)
    return found


# --- first pass: what the questions' words do in each shard ----------------------------------------------------------


@dataclass(frozen=True)
class Counted:
    """The questions' terms in one shard's documents."""

    ids: list[str]
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    """Terms a document, all of them."""
    documents: np.ndarray[Any, np.dtype[np.int32]]
    """Of each posting, by term and document: the document's place,"""
    frequencies: np.ndarray[Any, np.dtype[np.int32]]
    """and how often it holds the term."""
    starts: np.ndarray[Any, np.dtype[np.int64]]
    """(terms + 1): where each term's postings begin."""

    @classmethod
    def of(cls, records: Iterable[Record], vocabulary: dict[str, int]) -> "Counted":
        ids, lengths = [], []
        postings: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for place, record in enumerate(records):
            words = terms(record["text"])
            ids.append(record["id"])
            lengths.append(len(words))
            for word, times in Counter(word for word in words if word in vocabulary).items():
                postings[vocabulary[word]].append((place, times))
        rows = np.array([row for term in sorted(postings) for row in postings[term]], dtype=np.int32).reshape(-1, 2)
        sizes = [len(postings[term]) if term in postings else 0 for term in range(len(vocabulary))]
        starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        return cls(ids, np.array(lengths, dtype=np.int64), rows[:, 0], rows[:, 1], starts)

    def save(self, path: Path) -> None:
        arrays = {name: value for name, value in vars(self).items() if name != "ids"}
        np.savez(path, ids=np.array(self.ids), **arrays)

    @classmethod
    def load(cls, path: Path) -> "Counted":
        with np.load(path) as arrays:
            return cls(**{**arrays, "ids": arrays["ids"].tolist()})


@dataclass(frozen=True)
class _CountJob:
    store: str
    shard: Shard
    vocabulary: Path
    target: Path

    def run(self) -> tuple[int, int, np.ndarray[Any, np.dtype[np.int64]]]:
        """Documents, their terms, and in how many documents each term of the vocabulary is."""
        records = read_jsonl(open_store(self.store).blob_path(self.shard.blob))
        counted = Counted.of(records, _vocabulary(self.vocabulary))
        counted.save(self.target)
        return len(counted.ids), int(counted.lengths.sum()), np.diff(counted.starts)


@cache
def _vocabulary(path: Path) -> dict[str, int]:
    return {term: number for number, term in enumerate(orjson.loads(path.read_bytes()))}


# --- second pass: the best of each shard, and of all -----------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    """BM25 with the statistics of a whole corpus, applied to a part of it."""

    idf: np.ndarray[Any, np.dtype[np.float64]]
    mean_length: float
    k1: float
    b: float

    @classmethod
    def of(cls, config: RetrieveConfig, documents: int, length: int, frequency: Any) -> "Ranking":
        """Lucene's idf, ln(1 + (N − df + ½) / (df + ½)), which is never negative."""
        idf = [math.log1p((documents - df + 0.5) / (df + 0.5)) for df in frequency.tolist()]
        return cls(np.array(idf), max(length / max(documents, 1), 1.0), config.k1, config.b)

    def best(self, counted: Counted, wanted: Sequence[tuple[int, int]], most: int, min_score: float) -> list[Hit]:
        """The best documents for a question of (term, times); of equals the first by id."""
        scores = np.zeros(len(counted.ids))
        damping = self.k1 * (1 - self.b + self.b * counted.lengths / self.mean_length)
        for term, times in wanted:
            part = slice(counted.starts[term], counted.starts[term + 1])
            documents, frequencies = counted.documents[part], counted.frequencies[part]
            scores[documents] += times * self.idf[term] * frequencies / (frequencies + damping[documents])
        candidates = np.flatnonzero((scores > 0) & (scores >= min_score))
        if len(candidates) > most:  # those that tie with the last one wait for the ids to decide
            candidates = candidates[scores[candidates] >= np.partition(scores[candidates], -most)[-most]]
        return first((Hit(float(scores[i]), counted.ids[i]) for i in candidates.tolist()), most)


def first(hits: Iterable[Hit], most: int) -> list[Hit]:
    """The best hits, of equals the first by id."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.document))[:most]


@dataclass(frozen=True)
class _RankJob:
    counted: Path
    wanted: Path
    ranking: Ranking
    most: int
    min_score: float

    def run(self) -> list[list[Hit]]:
        counted = Counted.load(self.counted)
        wanted = orjson.loads(self.wanted.read_bytes())
        return [self.ranking.best(counted, terms, self.most, self.min_score) for terms in wanted]


def _rank(config: RetrieveConfig, seeds: Sequence[Seed], corpus: Manifest, ctx: StepContext) -> list[list[Hit]]:
    """The best documents of the corpus for each seed."""
    folder = ctx.workdir / "bm25"
    folder.mkdir(parents=True, exist_ok=True)
    known = sorted({term for seed in seeds for term in seed.terms})
    number = {term: i for i, term in enumerate(known)}
    vocabulary, wanted = folder / "vocabulary.json", folder / "wanted.json"
    vocabulary.write_bytes(orjson.dumps(known))
    wanted.write_bytes(orjson.dumps([sorted((number[t], n) for t, n in seed.terms.items()) for seed in seeds]))
    shards = [shard for shard in corpus.shards if shard.name.endswith(JSONL)]
    targets = [folder / f"{i}.npz" for i in range(len(shards))]
    counting = [
        _CountJob(ctx.store.uri, shard, vocabulary, target) for shard, target in zip(shards, targets, strict=True)
    ]
    documents = length = 0
    frequency = np.zeros(len(known), dtype=np.int64)
    for n, size, part in ctx.parallel(_CountJob.run, counting, "count"):
        documents, length, frequency = documents + n, length + size, frequency + part
    ranking = Ranking.of(config, documents, length, frequency)
    jobs = [_RankJob(target, wanted, ranking, config.per_question, config.min_score) for target in targets]
    best: list[list[Hit]] = [[] for _ in seeds]
    for found in ctx.parallel(_RankJob.run, jobs, "rank"):
        best = [first([*known, *new], config.per_question) for known, new in zip(best, found, strict=True)]
    for hits, seed in zip(best, seeds, strict=True):
        hits[:] = [hit for hit in hits if hit.document != seed.id]  # a seed out of the corpus finds itself
    return [[Hit(round(hit.score, 6), hit.document) for hit in hits] for hits in best]


def _by_document(config: RetrieveConfig, found: Sequence[Sequence[Hit]]) -> dict[str, dict[str, Any]]:
    """Document → its best score, its best rank among a question's, and how many questions found it."""
    documents: dict[str, dict[str, Any]] = {}
    for hits in found:
        for rank, hit in enumerate(hits):
            known = documents.setdefault(hit.document, {"score": hit.score, "rank": rank, "questions": 0})
            known |= {"score": max(known["score"], hit.score), "rank": min(known["rank"], rank)}
            known["questions"] += 1
    return {document: told | {"category": config.category} for document, told in documents.items()}


@dataclass(frozen=True)
class Retrieved:
    """Keeps what was found, and says of the rest only that it was not."""

    hits: Path

    def __call__(self, record: Record) -> Keep | Drop:
        found = _hits(self.hits).get(record["id"])
        if found is None:
            return Drop("not_retrieved", {name: record.get(name) for name in TOLD}, 0, "≥ 1 question")
        return Keep(record | {"retrieved": found})


@cache
def _hits(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = orjson.loads(path.read_bytes())
    return found
