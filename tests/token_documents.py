"""Tokenised documents and batches made by hand, for tests of what is drawn from them."""

from dataclasses import dataclass, field
from typing import Any

import numpy

from tokenmill.model import IGNORE
from tokenmill.training.data import PackedBatches, Sample, Samples
from tokenmill.training.tokens import Documents, identity_of

CONTEXT = 32


@dataclass(frozen=True)
class Document:
    id: str
    type: str
    tokens: Any = field(repr=False)
    heldout: bool = False
    epochs: int = 1
    lang: str = "en"


def in_memory(*documents: Document) -> Documents:
    kinds = list(dict.fromkeys((d.type, d.lang) for d in documents))
    length = numpy.array([len(d.tokens) for d in documents], dtype=numpy.int64)
    return Documents(
        shards=[numpy.concatenate([numpy.zeros(0, "<u2"), *(numpy.asarray(d.tokens, "<u2") for d in documents)])],
        kinds=tuple(kinds),
        kind=numpy.array([kinds.index((d.type, d.lang)) for d in documents], dtype=numpy.int16),
        shard=numpy.zeros(len(documents), dtype=numpy.int32),
        offset=numpy.cumsum(length) - length,
        length=length,
        identity=numpy.array([identity_of(d.id) for d in documents], dtype=numpy.uint64),
        heldout=numpy.array([d.heldout for d in documents], dtype=bool),
        epochs=numpy.array([d.epochs for d in documents], dtype=numpy.int16),
    )


def batches(micro_batch_tokens=4096, packs_per_step=8, samples=60, steps=None):
    """Samples of 1 to 40 tokens, some of them learned only in part."""
    draw = numpy.random.default_rng(0)
    rows = []
    for i in range(samples):
        ids = draw.integers(3, 500, size=draw.integers(2, 41)).tolist()
        rows.append(Sample(ids, [IGNORE] * (len(ids) // 2) + ids[len(ids) // 2 :] if i % 3 == 0 else None, f"s{i % 2}"))
    return PackedBatches(
        Samples.of(rows), CONTEXT, packs_per_step, seed=1, steps=steps, micro_batch_tokens=micro_batch_tokens
    )
