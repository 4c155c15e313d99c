"""Block lists of tens of millions of domains: sorted 64-bit hashes in one file that is mapped, never read as a whole.

A domain takes 8 bytes, so 13 million (the report's list) take 104 MB, which all workers of a machine share through the page
cache. A host that is on no list passes for a listed one if its hash collides: with probability n / 2⁶⁴ a look-up, 7·10⁻¹³ for
13 million entries, or one wrong drop in about 470 billion pages whose hosts have three parts each.
"""

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np
import zstandard

from tokenmill.curation.columns import mapped
from tokenmill.curation.config import BuildBlockListConfig
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.registered import is_file
from tokenmill.steps import StepContext, step

DOMAINS, WORDS = "domains.u64", "words.txt"
_HASH = np.dtype("<u8")


@step("curation.build_block_list", version=1, kinds={"lists": "sources"})
def build_block_list(config: BuildBlockListConfig, lists: Manifest, ctx: StepContext) -> Draft:
    """Text lists (.txt, .gz, .zst; plain, hosts or Adblock lines) → one block list that `screen` maps into memory."""
    hashes, words, bad = HashSet(), set(), Unusable(config.max_rejected)
    for shard in sorted(filter(is_file, lists.shards), key=lambda s: s.name):
        name = PurePosixPath(shard.name)
        for number, entry in entries(ctx.store.blob_path(shard.blob), name.suffix):
            bad.read += 1
            if fnmatchcase(name.name, config.words):
                words.add(" ".join(entry.split()))
            elif domain := listed_domain(entry):
                hashes.add(domain)
            else:
                bad.add(f"{shard.name} line {number}: {entry[:60]!r} names no domain below a top-level one")
    bad.check()
    folder = ctx.workdir / "block_list"
    folder.mkdir(parents=True, exist_ok=True)
    array = hashes.sorted()
    array.tofile(folder / DOMAINS)
    (folder / WORDS).write_text("".join(f"{word}\n" for word in sorted(words)), "utf-8")
    counts = {"domains": len(array), "words": len(words), "rejected": bad.count}
    return ctx.write_files("block_list", folder, counts=counts)


class HashSet:
    """Hashes of domains, gathered into arrays of 8 bytes an entry."""

    chunk = 1 << 20

    def __init__(self) -> None:
        self._full: list[np.ndarray] = []
        self._buffer: list[int] = []

    def add(self, domain: str) -> None:
        self._buffer.append(domain_hash(domain))
        if len(self._buffer) == self.chunk:
            self._flush()

    def sorted(self) -> np.ndarray:
        """All of them, ascending, each once: (n,) uint64."""
        self._flush()
        array = np.concatenate(self._full) if self._full else np.empty(0, _HASH)
        self._full = []
        array.sort()
        first = np.ones(len(array), bool)
        first[1:] = array[1:] != array[:-1]
        return array[first]

    def _flush(self) -> None:
        self._full.append(np.array(self._buffer, _HASH))
        self._buffer = []


@dataclass
class Unusable:
    """Lines that name nothing: counted, and never fatal below a share."""

    limit: float
    read: int = 0
    count: int = 0
    first: str = field(default="")

    def add(self, what: str) -> None:
        self.count += 1
        self.first = self.first or what

    def check(self) -> None:
        if self.count > self.limit * self.read:
            raise InputError(
                f"{self.first}. {self.count} of {self.read} lines are unusable; the step stops above {self.limit:.0%} "
                "(curation.build_block_list.max_rejected). Mend the list, or raise the limit."
            )


def entries(path: Path, suffix: str) -> Iterator[tuple[int, str]]:
    """(line number, entry) of a list, decompressed as it is read; comments and empty lines are left out.

    Raises:
        InputError: it is no readable gzip or zstd file, or it ends too early.
    """
    try:
        for number, line in enumerate(_lines(_chunks(path, suffix)), 1):
            entry = line.decode("utf-8", "replace").removeprefix("\ufeff").partition("#")[0].strip()
            if entry and not entry.startswith(("!", "[")):
                yield number, entry
    except (zstandard.ZstdError, OSError, EOFError, zlib.error) as broken:
        raise InputError(f"{path.name}: not a readable {suffix} file ({broken}); fetch the list again") from None


def _chunks(path: Path, suffix: str) -> Iterator[bytes]:
    """The decompressed bytes of a file, a mebibyte or so at a time."""
    with gzip.open(path) if suffix == ".gz" else path.open("rb") as file:
        chunks = iter(lambda: file.read(1 << 20), b"")
        yield from _unzstd(chunks) if suffix == ".zst" else chunks


def _unzstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """zstd frames, decompressed. The library's own reader takes a file that ends in the middle of one for complete."""
    frame = None
    for chunk in chunks:
        while chunk:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(chunk)
            chunk = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame:
        raise EOFError("the file ends in the middle of a frame")


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    yield rest


_PLAIN = re.compile(r"(?:[a-z0-9_-]{1,63}\.)+[a-z0-9-]{1,63}")


def listed_domain(entry: str) -> str | None:
    """The domain of a line: `bad.com`, `*.bad.com`, `0.0.0.0 bad.com`, `||bad.com^` or a URL; None of anything else.

    A single label is none: one `com` would block half of the web.
    """
    if _PLAIN.fullmatch(entry):  # as most lines are
        return entry
    last = entry.split()[-1]
    if last.startswith("||"):
        last = last[2:].partition("^")[0]
    try:
        name = host_name((urlsplit(last).hostname or "") if "://" in last else last.removeprefix("*."))
    except ValueError:
        return None
    labels = name.split(".")
    usable = len(labels) > 1 and all(label and len(label) < 64 for label in labels)
    return name if usable and all(c.isalnum() or c in ".-_" for c in name) else None


def host_name(name: str) -> str:
    """A host name as the DNS compares it: lower case, punycode, no dot at the end."""
    name = name.strip().strip(".").lower()
    return name if name.isascii() else name.encode("idna").decode()


def suffixes(host: str) -> list[str]:
    """A host and every domain above it: a.bad.com, bad.com, com."""
    parts = host.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def domain_hash(domain: str) -> int:
    return int.from_bytes(blake2b(domain.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class MappedDomains:
    """The domains of a block list; only the file's path is pickled, and each process maps the file once."""

    path: Path

    def first(self, domains: Iterable[str]) -> str | None:
        """The first of these domains that is listed."""
        asked = list(domains)
        array = _hashes(self.path)
        if not asked or not len(array):
            return None
        hashes = np.array([domain_hash(d) for d in asked], _HASH)
        at = np.minimum(np.searchsorted(array, hashes), len(array) - 1)
        return next((d for d, known in zip(asked, array[at] == hashes, strict=True) if known), None)


@lru_cache(maxsize=4)
def _hashes(path: Path) -> np.ndarray:
    return mapped(path, _HASH)
