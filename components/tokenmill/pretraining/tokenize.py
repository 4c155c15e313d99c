"""Corpus → token shards, with the document behind every token."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.pretraining.config import TokenizeConfig
from tokenmill.records import JSONL, read_jsonl, write_jsonl
from tokenmill.steps import StepContext, step
from tokenmill.steps.files import scratch, store_file
from tokenmill.store import open_store
from tokenmill.training.tokens import DOCUMENTS, META, TOKENS, dtype_for

if TYPE_CHECKING:
    from tokenmill.model.tokenizer import Tokenizer

BATCH = 512
FEW = 64
"""Held-out documents, below which they are counted and not left to chance."""


@step(
    "pretraining.tokenize",
    version=4,
    libraries=("tokenizers",),
    kinds={"corpus": "corpus", "tokenizer": "tokenizer"},
)
def tokenize_corpus(config: TokenizeConfig, corpus: Manifest, tokenizer: Manifest, ctx: StepContext) -> Draft:
    """Tokenise every document whole; held-out documents are chosen by a hash of their id, so they never move."""
    folder, below = ctx.files(tokenizer), _thresholds(corpus, config.heldout_share, ctx)
    threads = max(1, len(os.sched_getaffinity(0)) // max(1, min(config.execution.workers, len(corpus.shards))))
    jobs = [_Job(ctx.store.uri, shard, folder, below[partition_of(shard)], threads) for shard in corpus.shards]
    shards, counts = [], Counter[str]()
    for pair, tokens in ctx.parallel(_tokenize_shard, jobs, "shards"):
        shards += pair
        counts.update(tokens)
    meta = ctx.workdir / META
    meta.write_bytes(orjson.dumps({"dtype": dtype_for(_tokenizer(folder).vocab_size), "tokenizer": tokenizer.content}))
    shards.append(store_file(ctx.store, meta, META))
    return Draft(kind="tokens", shards=tuple(sorted(shards, key=lambda s: s.name)), counts=dict(sorted(counts.items())))


@dataclass(frozen=True)
class _Job:
    store_uri: str
    shard: Shard
    tokenizer: Path
    heldout_below: int
    """Documents whose `place` is lower are held out."""
    threads: int
    """That encode at once in one process: all processes together keep every core busy, and none waits for another's."""


def _tokenize_shard(job: _Job) -> tuple[list[Shard], dict[str, int]]:
    import numpy

    os.environ.setdefault("RAYON_NUM_THREADS", str(job.threads))  # read when a process encodes for the first time
    store, tokenizer = open_store(job.store_uri), _tokenizer(job.tokenizer)
    dtype, name = dtype_for(tokenizer.vocab_size), job.shard.name.removesuffix(JSONL)
    records = list(read_jsonl(store.blob_path(job.shard.blob)))
    index, counts, offset = [], Counter[str](), 0
    with scratch() as folder:
        tokens_path = folder / "shard.tokens"
        with tokens_path.open("wb") as out:
            for start in range(0, len(records), BATCH):
                batch = records[start : start + BATCH]
                for record, ids in zip(batch, tokenizer.encode_batch([r["text"] for r in batch]), strict=True):
                    ids = [tokenizer.bos_id, *ids, tokenizer.eos_id]
                    out.write(numpy.asarray(ids, dtype=dtype).tobytes())
                    heldout = place(record["id"]) < job.heldout_below
                    row = {k: record[k] for k in ("id", "type", "lang", "source")}
                    row |= {"epochs": record["epochs"]} if "epochs" in record else {}
                    index.append(row | {"offset": offset, "tokens": len(ids), "heldout": heldout})
                    offset += len(ids)
                    counts["documents"] += 1
                    counts["tokens"] += len(ids)
                    counts[f"tokens/{record['type']}/{record['lang']}"] += len(ids)
        documents_path = folder / f"documents{JSONL}"
        _, count = write_jsonl(documents_path, index)
        pair = [
            store_file(store, tokens_path, name + TOKENS),
            store_file(store, documents_path, name + DOCUMENTS, count),
        ]
    return pair, dict(counts)


def place(document_id: str) -> int:
    """A document's place in a draw that is the same for ever: 32 bits of its id's hash."""
    return int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:4], "big")


def partition_of(shard: Shard) -> str:
    """`type=book/lang=en/part-00000.jsonl.zst` → `type=book/lang=en`."""
    return shard.name.rpartition("/")[0]


def _thresholds(corpus: Manifest, share: float, ctx: StepContext) -> dict[str, int]:
    """The place below which a partition's documents are held out.

    Where a share of the documents would be fewer than `FEW`, chance could leave a domain with none and its loss unmeasured:
    there the documents are counted out, at least one, unless there is only one.
    """
    partitions: dict[str, list[Shard]] = {}
    for shard in corpus.shards:
        partitions.setdefault(partition_of(shard), []).append(shard)
    thresholds = {}
    for name, shards in partitions.items():
        documents = sum(shard.records for shard in shards)
        wanted = documents * share
        thresholds[name] = int(share * 2**32)
        if documents and wanted < FEW:
            places = sorted(place(record["id"]) for shard in shards for record in ctx.records(corpus, shard))
            thresholds[name] = places[min(max(1, round(wanted)), documents - 1)]
    return thresholds


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> "Tokenizer":
    """One a process: what it remembers of frequent words is worth a fifth of the time of a shard."""
    from tokenmill.model.tokenizer import Tokenizer

    return Tokenizer.load(folder)
