"""What one shard says for the funnel: documents and bytes by type, language and reason; a sample; examples of drops.

Everything here is small whatever the shard's size: a shard is streamed, and what is chosen of it is chosen by a hash of
the document's id, so that the choice hangs neither on the order of shards nor on the number of workers.
"""

import heapq
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal

from tokenmill.curation.statistics import Statistics, statistics
from tokenmill.records import Record, read_jsonl
from tokenmill.store import open_store

Partition = str
"""`web/en`: type and language."""
SCORE_BINS = 20
"""Of a score's histogram, from 0 to 1."""
BUNDLE_BYTES = 16 << 20
"""Stored bytes that a worker is given at once."""


@dataclass
class Tally:
    """Counts that add up."""

    documents: int = 0
    bytes: int = 0
    """UTF-8 bytes of text."""
    files: int = 0
    """Documents before any were joined: a repository counts its files."""

    def add(self, other: "Tally") -> None:
        self.documents += other.documents
        self.bytes += other.bytes
        self.files += other.files


@dataclass(order=True)
class Example:
    """A document that was dropped; ordered by the hash of its id."""

    order: int
    shown: dict[str, Any] = field(compare=False)


@dataclass(frozen=True)
class Sampled:
    """A document's statistics, and its place in the order of sampling, in [0, 1)."""

    place: float
    group: str
    values: Statistics


@dataclass
class Findings:
    """Of one shard; those of several add up."""

    tallies: dict[tuple[str, Partition], Tally] = field(default_factory=lambda: defaultdict(Tally))
    """(reason, partition) → counts; what was kept has none."""
    aside: bool = False
    """Whether these were dropped or rejected."""
    examples: dict[str, list[Example]] = field(default_factory=dict)
    sample: list[Sampled] = field(default_factory=list)
    scores: dict[str, list[int]] = field(default_factory=dict)
    """Score → documents a bin of its value."""


@dataclass(frozen=True)
class Surveyor:
    """Reads shards in a worker process."""

    store_uri: str
    n_examples: int
    excerpt: int

    def __call__(self, bundle: Sequence["Job"]) -> list[Findings]:
        return [self.read(job) for job in bundle]

    def read(self, job: "Job") -> Findings:
        read = read_jsonl(open_store(self.store_uri).blob_path(job.blob))
        if job.holds == "kept":
            return self.kept(read, job.rate)
        return self.aside(read, rejected=job.holds == "rejected")

    def kept(self, records: Iterable[Record], rate: float) -> Findings:
        """Counts of kept records; statistics of the share `rate` of them."""
        found = Findings()
        for record in records:
            found.tallies["", partition(record)].add(tally(record))
            count_scores(record, found.scores)
            place = hashed(record["id"]) / 2**64
            if place < rate:
                values = statistics(record["text"], record["lang"])
                found.sample.append(Sampled(place, group(record["type"], record["lang"]), values))
        return found

    def aside(self, records: Iterable[Record], *, rejected: bool) -> Findings:
        """Counts by reason of what was dropped or rejected, and the examples that are first by hash."""
        found = Findings(aside=True)
        chosen: defaultdict[str, list[Example]] = defaultdict(list)
        for record in records:
            reason = reason_of(record, rejected=rejected)
            found.tallies[reason, partition(record)].add(tally(record))
            count_scores(record, found.scores)
            order = hashed(str(record.get("id") or record.get("where")))
            heap = chosen[reason]  # of negated hashes, so that its head is the one to give up
            if len(heap) < self.n_examples:
                heapq.heappush(heap, Example(-order, shown(record, self.excerpt)))
            elif heap and -heap[0].order > order:
                heapq.heapreplace(heap, Example(-order, shown(record, self.excerpt)))
        found.examples = {r: sorted(Example(-e.order, e.shown) for e in heap) for r, heap in chosen.items()}
        return found


@dataclass(frozen=True)
class Job:
    """One shard to read; a shard that several stages share is read once."""

    blob: str
    holds: Literal["kept", "dropped", "rejected"]
    size: int
    """Stored bytes."""
    rate: float = 0.0


def bundled(jobs: Iterable[Job]) -> list[list[Job]]:
    """Jobs in bundles of about `BUNDLE_BYTES`: a process costs more to start than a small shard to read."""
    bundles: list[list[Job]] = [[]]
    filled = 0
    for job in jobs:
        if filled >= BUNDLE_BYTES:
            bundles.append([])
            filled = 0
        bundles[-1].append(job)
        filled += job.size
    return bundles


def reason_of(record: Record, *, rejected: bool) -> str:
    """As manifests count it: a reject's without its particulars."""
    if rejected:
        return "rejected:" + re.split(r"[(:]", str(record["reason"]), maxsplit=1)[0].strip()
    return str((record.get("dropped") or {}).get("reason", ""))


def partition(record: Record) -> Partition:
    return f"{record.get('type', 'unreadable')}/{record.get('lang', 'none')}"


def group(kind: str, lang: str) -> str:
    """What is sampled and drawn together: a language, or code in any."""
    return "code" if kind == "code" else lang


def tally(record: Record) -> Tally:
    return Tally(1, len(record.get("text", "").encode()), len(record.get("files") or (1,)))


def count_scores(record: Record, histograms: dict[str, list[int]]) -> None:
    for name, value in (record.get("scores") or {}).items():
        bins = histograms.setdefault(name, [0] * SCORE_BINS)
        bins[min(int(value * SCORE_BINS), SCORE_BINS - 1)] += 1


def hashed(identity: str) -> int:
    """64 bits that depend on the id alone."""
    return int.from_bytes(blake2b(identity.encode(), digest_size=8).digest(), "big")


def shown(record: Record, excerpt: int) -> dict[str, Any]:
    """What a person needs to judge a drop: the decision, where the document came from, and how it reads."""
    decision = record.get("dropped") or {"reason": record.get("reason", ""), "value": None, "threshold": None}
    told = {
        name: record[name] for name in ("id", "source", "path", "url", "dump", "survivor", "where") if record.get(name)
    }
    return told | {
        "partition": partition(record),
        "value": decision.get("value"),
        "threshold": decision.get("threshold"),
        "excerpt": around(record.get("text", ""), decision.get("value"), excerpt),
    }


def around(text: str, value: Any, size: int) -> str:
    """The first `size` characters, or those around the first word that the decision names; white space as one blank."""
    if not size:
        return ""
    words = [word for word in value if isinstance(word, str)] if isinstance(value, list) else []
    found = min((at for word in words if (at := text.lower().find(word)) >= 0), default=0)
    start = max(0, found - size // 3) if found > size // 2 else 0
    cut = " ".join(text[start : start + 2 * size].split())[:size]
    return ("… " if start else "") + cut + (" …" if start + len(cut) < len(text.rstrip()) else "")
