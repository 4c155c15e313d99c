"""A shard's sketch: which n-grams each stretch of it holds, remembered once, asked again by every suite and every model.

Of every 64 KiB of text the n-grams (3 words, in Chinese 5 characters) are kept as a Bloom filter of 8 to 16 bits each, about a
fifth of the text. Where a sketch says no, no copy and no paraphrase is; where it says maybe, the stretch is read again. So
an answer is the same with it and without, and a suite that nobody leaked costs no reading at all.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy

from tokenmill.manifest import Draft, Shard, canonical, sha256
from tokenmill.overlap.asked import TRAINED, training_text
from tokenmill.overlap.near import NGRAM
from tokenmill.overlap.units import HAN, TABLE_SIZE, Units, units
from tokenmill.records import Record
from tokenmill.steps.files import scratch, store_file
from tokenmill.store import ArtifactStore

STRETCH = 1 << 16
"""Characters after which a stretch ends, with the document that it is in."""
_KEY, _HEAD = "overlap.sketch", 3


@dataclass(frozen=True)
class Probes:
    """What is looked for, as n-grams: of each question those that a copy has in a row, and its own, which a paraphrase has.

    Columns as `kernels.may_hold` takes them.
    """

    runs: Any
    run_bounds: Any
    run_wanted: Any
    own: Any
    own_bounds: Any
    own_wanted: Any

    @classmethod
    def of(cls, questions: "Iterable[tuple[Units, int, Units, int]]") -> "Probes":
        """(n-grams in order, how many in a row are a copy, own n-grams, how many are a paraphrase) a question."""
        listed = list(questions)
        runs = _columns([(run, wanted) for run, wanted, _, _ in listed])
        return cls(*runs, *_columns([(own, wanted) for _, _, own, wanted in listed]))


def _columns(parts: list[tuple[Units, int]]) -> tuple[Any, Any, Any]:
    grams = [numpy.empty(0, numpy.uint64), *(part for part, _ in parts)]
    bounds = numpy.cumsum([len(part) for part in grams], dtype=numpy.int64)
    return numpy.concatenate(grams), bounds, numpy.array([wanted for _, wanted in parts], numpy.int64)


@dataclass(frozen=True)
class Sketch:
    """The stretches of one shard."""

    words: Any
    """uint64: how many stretches, of each its first record, place and logarithm of bits, then their filters."""

    def stretches(self) -> Iterator[tuple[range, Any, int]]:
        """Records, filter and logarithm of its bits of every stretch."""
        count = int(self.words[0])
        table = self.words[2 : 2 + _HEAD * count].reshape(count, _HEAD).tolist()
        for number, (first, place, bits) in enumerate(table, 1):
            end = table[number][0] if number < count else int(self.words[1])
            yield range(first, end), self.words[place : place + (1 << (bits - 6))], bits

    def suspects(self, probes: Probes) -> Iterator[range]:
        """Records in which a question may stand."""
        from tokenmill.overlap.kernels import may_hold

        columns = tuple(vars(probes).values())
        for records, words, bits in self.stretches():
            if may_hold(words, bits, *columns):
                yield records

    @classmethod
    def made(cls, texts: Iterable[str]) -> "Sketch":
        """Of a shard's texts, in order."""
        from tokenmill.overlap.kernels import bloom

        heads: list[tuple[int, Any, int]] = []
        held: list[Units] = []
        first = size = number = 0

        def close(next_first: int) -> None:
            nonlocal first, size
            keys = numpy.unique(numpy.concatenate([numpy.empty(0, numpy.uint64), *held]))
            bits = max(9, (8 * len(keys)).bit_length())
            words = numpy.zeros(1 << (bits - 6), numpy.uint64)
            bloom(keys, words, bits)
            heads.append((first, words, bits))
            held.clear()
            first, size = next_first, 0

        for number, text in enumerate(texts, 1):
            held += ngrams(text)
            size += len(text)
            if size >= STRETCH:
                close(number)
        if number > first:
            close(number)
        place, table = 2 + _HEAD * len(heads), []
        for begin, words, bits in heads:
            table += [begin, place, bits]
            place += len(words)
        head = numpy.array([len(heads), number, *table], numpy.uint64)
        return cls(numpy.concatenate([head, *(words for _, words, _ in heads)]))

    @classmethod
    def remembered(cls, store: ArtifactStore, shard: Shard, records: Iterable[Record]) -> "Sketch":
        """Of a shard of this store, made of its `records` where nobody has made it yet; a worker's own, no lease is needed."""
        key = sha256(canonical([_KEY, _making(), shard.content]))
        if entry := store.get_action(key):
            known = Draft.model_validate(entry["outputs"]["output"])
            if not store.missing(known.shards):
                return cls(numpy.load(store.blob_path(known.shards[0].blob), mmap_mode="r"))
            store.delete_action(key)  # half collected
        made = cls.made(map(training_text, records))
        with scratch() as folder:
            path = Path(folder) / "sketch.npy"
            numpy.save(path, made.words)
            draft = Draft(kind="sketch", shards=(store_file(store, path, f"{shard.name}.sketch.npy"),))
        store.create_action(key, {"step": _KEY, "outputs": {"output": draft.body()}})
        return made


def ngrams(text: str) -> list[Units]:
    """The n-grams of a text in words, and where it has Chinese also in characters."""
    from tokenmill.overlap.kernels import grams

    ways = (False, True) if not text.isascii() and HAN.search(text) else (False,)
    return [grams(units(text, chinese), NGRAM[chinese]) for chinese in ways]


@cache
def _making() -> str:
    """What decides a sketch, told by one of every character there is, in every field: no version is raised by hand.

    Another n-gram, hash, filter, stretch, layout, Unicode or field gives another digest, and a stale sketch is not found.
    """
    characters = "".join(chr(code) for code in range(TABLE_SIZE) if not 0xD800 <= code < 0xE000)
    words = [characters[at : at + 2] for at in range(0, len(characters), 2)]
    records: list[Record] = [{"text": " ".join(words[at : at + 500])} for at in range(0, len(words), 500)]
    records += [{name: [{"content": f"the {name} of a record"}]} for name in TRAINED]
    return sha256(Sketch.made(map(training_text, records)).words.tobytes())
