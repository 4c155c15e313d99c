"""Fingerprints: all that is compared of a document, in 159 bytes (with 128 permutations), and the index they form.

A file of fingerprints is a short header (JSON) and columns of fixed width, so that it is used where it lies, through the
operating system's page cache, and never copied into a worker's memory: 8 bytes of id, 16 of the text's SHA-256, 4 of length, 2
of dump, the lowest byte of every MinHash (Li and König 2010: two that differ agree in a byte once in 256), 1 of language.
Only documents of one language are compared. A signature of nothing but 255 says: compared by its whole text only.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson

from tokenmill.curation.repeats_config import FingerprintConfig
from tokenmill.curation.units import encoded, unit_kind
from tokenmill.errors import CorruptError, InputError
from tokenmill.manifest import Shard
from tokenmill.records import Record, read_jsonl
from tokenmill.steps.files import scratch, store_file
from tokenmill.store import ArtifactStore, open_store

PRINTS = ".prints"
_MAGIC = b"TMPRINT1"
_ID = re.compile(r"[0-9a-f]{16}")
SCRATCH_FROM = 4_000_000
"""Rows from which a working array lies in a scratch file rather than in memory."""


@dataclass(frozen=True)
class Sketch:
    """Fingerprints one shard of a corpus, in a worker process; the file goes straight into the store."""

    store_uri: str
    config: FingerprintConfig

    def __call__(self, shard: Shard) -> Shard:
        store = open_store(self.store_uri)
        name = f"{shard.name}{PRINTS}"
        with scratch() as folder:
            path = folder / "shard.prints"
            count = write_prints(path, read_jsonl(store.blob_path(shard.blob)), self.config)
            return store_file(store, path, name, count)


def write_prints(path: Path, records: Iterable[Record], config: FingerprintConfig) -> int:
    """Fingerprint records, in order, into a file; returns how many there were."""
    ids: list[str] = []
    exact, lengths, dumps, langs, signatures = [], [], [], [], []
    dump_table: dict[str, int] = {}
    lang_table: dict[str, int] = {}
    batch = _Batch(config)
    for record in records:
        text = record["text"]
        data = text.encode("utf-8", "surrogatepass")
        ids.append(record["id"])
        exact.append(sha256(data).digest()[:16])
        lengths.append(len(text))
        dumps.append(dump_table.setdefault(record.get("dump") or "", len(dump_table)))
        langs.append(lang_table.setdefault(record["lang"], len(lang_table)))
        by_ngrams = record["type"] not in config.exact_only
        signatures += batch.add(text, data, unit_kind(record["type"], record["lang"]), by_ngrams)
    signatures += batch.flush()
    if len(lang_table) > 256 or len(dump_table) > 65536:
        raise InputError(f"{path.name}: {len(lang_table)} languages or {len(dump_table)} dumps in one shard")
    header = {
        "documents": len(ids),
        "parameters": parameters(config),
        "dumps": list(dump_table),
        "langs": list(lang_table),
        "ids": None if all(map(_ID.fullmatch, ids)) else ids,
    }
    columns = [
        np.array([int(i, 16) if header["ids"] is None else 0 for i in ids], "<u8"),
        np.frombuffer(b"".join(exact), np.uint8),
        np.minimum(np.array(lengths, np.int64), 0xFFFFFFFF).astype("<u4"),
        np.array(dumps, "<u2"),
        np.concatenate(signatures) if signatures else np.empty(0, np.uint8),
        np.array(langs, np.uint8),
    ]
    _write(path, header, columns)
    return len(ids)


def parameters(config: FingerprintConfig) -> dict[str, Any]:
    """What two fingerprints must share to be comparable; `scheme` counts changes of the kernels."""
    return {"scheme": 1, "permutations": config.permutations, "ngram": config.ngram, "seed": config.seed}


def _write(path: Path, header: dict[str, Any], columns: Sequence[np.ndarray]) -> None:
    told = orjson.dumps(header, option=orjson.OPT_SORT_KEYS)
    told += b" " * (-(len(_MAGIC) + 4 + len(told)) % 8)  # columns start at a multiple of 8
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(_MAGIC + len(told).to_bytes(4, "little") + told)
        for column in columns:
            file.write(np.ascontiguousarray(column).tobytes())


class _Batch:
    """Texts on their way to the kernels, a few megabytes at a time; an empty signature where nothing is to be signed."""

    def __init__(self, config: FingerprintConfig) -> None:
        self.config = config
        self.data: list[bytes] = []
        self.kinds: list[str] = []
        self.size = 0

    def add(self, text: str, data: bytes, kind: str, by_ngrams: bool) -> list[np.ndarray]:
        self.data.append((data if text.isascii() else encoded(text, kind)) if by_ngrams else b"")
        self.kinds.append(kind)
        self.size += len(self.data[-1])
        return self.flush() if self.size >= 4 << 20 or len(self.data) >= 4096 else []

    def flush(self) -> list[np.ndarray]:
        from tokenmill.curation.minhash import sketch

        if not self.data:
            return []
        signed = sketch(self.data, self.kinds, self.config.ngram, self.config.permutations, self.config.seed)
        self.data, self.kinds, self.size = [], [], 0
        return [stored(signed)]


def stored(signatures: np.ndarray) -> np.ndarray:
    """The lowest byte of every MinHash: uint8, of the same shape."""
    return signatures.astype(np.uint8)


# --- reading ---------------------------------------------------------------------------------------------------------


class Prints:
    """The fingerprints of one shard, mapped from their file."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        raw = np.asarray(np.memmap(path, np.uint8, "r"))  # a memmap is slow to be read a value at a time
        start = len(_MAGIC) + 4
        size = int.from_bytes(raw[len(_MAGIC) : start].tobytes(), "little")
        if raw[: len(_MAGIC)].tobytes() != _MAGIC or start + size > len(raw):
            raise CorruptError(f"{name}: no file of fingerprints; run curation.fingerprint again")
        self.header: dict[str, Any] = orjson.loads(raw[start : start + size].tobytes())
        n, permutations = self.header["documents"], self.header["parameters"]["permutations"]
        at, columns = start + size, []
        for width in (8, 16, 4, 2, permutations, 1):
            columns.append(raw[at : at + width * n])
            at += width * n
        if at != len(raw):
            raise CorruptError(f"{name}: {len(raw)} bytes, but {n} fingerprints are {at}")
        self.numbers = columns[0].view("<u8")
        self.exact = columns[1].reshape(n, 16)
        self.lengths, self.dumps = columns[2].view("<u4"), columns[3].view("<u2")
        self.signatures, self.langs = columns[4].reshape(n, permutations), columns[5]

    def __len__(self) -> int:
        return int(self.header["documents"])

    def id(self, row: int) -> str:
        ids = self.header["ids"]
        return str(ids[row]) if ids else f"{int(self.numbers[row]):016x}"

    def select(self, path: Path, rows: np.ndarray) -> None:
        """Write the fingerprints of some rows as a file of their own."""
        ids = self.header["ids"]
        header = self.header | {"documents": len(rows), "ids": ids and [ids[row] for row in rows]}
        columns = (self.numbers, self.exact, self.lengths, self.dumps, self.signatures, self.langs)
        _write(path, header, [column[rows] for column in columns])


@dataclass
class Table:
    """What is compared: a row a document, whose number is its place; those of a stored index come first."""

    signatures: np.ndarray
    """uint8 [documents, permutations]."""
    exact: np.ndarray
    """uint8 [documents, 16]: the beginning of the text's SHA-256."""
    salt: np.ndarray
    """uint64 [documents]: a number that stands for a document's language."""
    priority: np.ndarray
    """uint64 [documents]: of two that are one document the higher stays; ties are `order`'s."""
    order: np.ndarray
    """uint64 [documents]: sorts as the ids do."""
    old: int = 0
    """How many documents are a stored index's."""
    workdir: Path | None = None
    """For working arrays larger than memory should hold."""

    @property
    def size(self) -> int:
        return len(self.signatures)

    def id(self, number: int) -> str:
        return str(number)

    def array(self, name: str, width: int, dtype: str) -> np.ndarray:
        """A working array of a row a document: in memory, or in a scratch file where there are millions."""
        return _array(self.workdir, name, (self.size, width) if width > 1 else (self.size,), dtype)


def _array(workdir: Path | None, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if shape[0] < SCRATCH_FROM or workdir is None:
        return np.empty(shape, dtype)
    return np.asarray(np.memmap(workdir / f"{name}.column", dtype, "w+", shape=shape))


class Index(Table):
    """The fingerprints of a stored index and of a corpus, as one table.

    A document's number is its place in it: the index's shards first, each set in the order of its shards' names.
    """

    def __init__(self, shards: Sequence[Prints], old: int, workdir: Path | None = None) -> None:
        """
        Args:
            shards: files of fingerprints, those of the stored index first.
            old: how many of them are the stored index's.
            workdir: for working arrays larger than memory should hold.
        """
        self.shards, self.old_shards, self.workdir = shards, old, workdir
        self.starts = np.cumsum([0, *map(len, shards)])
        self.old = int(self.starts[old])
        ways = {orjson.dumps(shard.header["parameters"]): shard.name for shard in shards if len(shard)}
        if len(ways) > 1:
            told = "; ".join(f"{name}: {way.decode()}" for way, name in ways.items())
            raise InputError(
                f"fingerprints that cannot be compared: {told}. Make the index again with the same options."
            )
        self.signatures = self._joined("signatures", lambda shard: shard.signatures, "u1")
        self.exact = self._joined("exact", lambda shard: shard.exact, "u1")
        self.salt = self._joined("salt", _language_salts, "<u8")
        self.priority = self._joined("priority", _priorities(shards), "<u8")
        self.order = self._order()

    def _joined(self, name: str, column: Callable[[Prints], np.ndarray], dtype: str) -> np.ndarray:
        width = column(self.shards[0]).shape[1:] if self.shards else ()
        joined = _array(self.workdir, name, (int(self.starts[-1]), *width), dtype)
        for start, shard in zip(self.starts, self.shards, strict=False):
            joined[start : start + len(shard)] = column(shard)
        return joined

    def _order(self) -> np.ndarray:
        if all(shard.header["ids"] is None for shard in self.shards):
            return self._joined("order", lambda shard: shard.numbers, "<u8")
        ids = np.array([shard.id(row) for shard in self.shards for row in range(len(shard))])
        return np.unique(ids, return_inverse=True)[1].astype(np.uint64)  # ids not of our form: as strings, in memory

    @classmethod
    def load(cls, store: ArtifactStore, old: Sequence[Shard], new: Sequence[Shard], workdir: Path) -> Self:
        """The files of a stored index, and of a corpus, each in the order of their names."""
        for one, other in pairwise(in_order(new)):
            if one.name == other.name:
                raise InputError(f"two files of fingerprints are named {one.name}: was a group given twice?")
        listed = [*in_order(old), *in_order(new)]
        return cls([Prints(store.blob_path(s.blob), s.name) for s in listed], len(old), workdir)

    def locate(self, number: int) -> tuple[Prints, int]:
        shard = int(np.searchsorted(self.starts, number, "right")) - 1
        return self.shards[shard], number - int(self.starts[shard])

    def id(self, number: int) -> str:
        shard, row = self.locate(number)
        return shard.id(row)


def _language_salts(shard: Prints) -> np.ndarray:
    numbers = [int.from_bytes(sha256(lang.encode()).digest()[:8], "little") for lang in shard.header["langs"]]
    return np.array(numbers, np.uint64)[shard.langs]


def _priorities(shards: Sequence[Prints]) -> Callable[[Prints], np.ndarray]:
    """The newer dump before the longer text."""
    told = {dump_number(dump) for shard in shards for dump in shard.header["dumps"]}
    ranks = {number: rank for rank, number in enumerate(sorted(told))}

    def priorities(shard: Prints) -> np.ndarray:
        rank = np.array([ranks[dump_number(dump)] for dump in shard.header["dumps"]], np.uint64)
        return rank[shard.dumps] << np.uint64(32) | shard.lengths

    return priorities


def in_order(shards: Iterable[Shard]) -> list[Shard]:
    return sorted(shards, key=lambda s: (s.name, s.content))


def dump_number(dump: str | None) -> tuple[int, ...]:
    """`CC-MAIN-2023-40` → (2023, 40); none is older than any."""
    return tuple(int(n) for n in re.findall(r"\d+", dump or ""))
