"""What the store holds, and clearing away what nobody needs.

Kept is what can be reached, up through the parents, from: pins (registered models are pinned; of one that the gate refused
the verdict and what that rests on), manifests younger than `min_age_s`, and work that is under way. The order of deletion
(`ORDER`) makes a kill at any moment harmless: an action or a manifest that is present has its blobs. `guard` protects runs
that start late.
"""

import re
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice

from tokenmill.store.artifacts import ArtifactStore
from tokenmill.store.backend import Entry, NotFoundError
from tokenmill.store.guard import notice
from tokenmill.store.lease import LeaseRecord

DAY_S = 86_400.0
BATCH = 1000  # objects under one notice
SILENT_TTLS = 10  # a lease that was silent for so many times its time to live is dead; waiters are quicker to judge
STALE_NOTICE_S = 3600.0
ORDER = ("actions", "manifests", "children", "registry", "work", "blobs")


@dataclass
class Amount:
    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.objects += 1
        self.bytes += size


@dataclass
class DiskUse:
    """What a store holds."""

    areas: dict[str, Amount]
    """Per top-level folder of the layout."""
    kinds: dict[str, Amount]
    """Blobs by the kind of artifact that they belong to; one that several share counts once, for the first by name."""
    unreferenced: Amount
    """Blobs of no manifest: work under way, or garbage."""


@dataclass
class GcReport:
    """What a collection deleted, or with `dry_run` would delete."""

    dry_run: bool
    deleted: dict[str, Amount] = field(default_factory=lambda: {area: Amount() for area in ORDER})
    kept_manifests: int = 0
    kept_blobs: int = 0
    unfinished: int = 0
    """Uploads and temporary files that killed writers left."""
    lost_parents: list[str] = field(default_factory=list)
    """Ancestors of what is kept that are not in the store (taken down, or of another store)."""

    @property
    def bytes(self) -> int:
        return sum(amount.bytes for amount in self.deleted.values())


def du(store: ArtifactStore) -> DiskUse:
    """Bytes by area, and by kind of artifact."""
    entries = list(store.backend.list())
    areas: defaultdict[str, Amount] = defaultdict(Amount)
    for entry in entries:
        areas[entry.key.partition("/")[0]].add(entry.size)
    owner: dict[str, str] = {}
    for digest in [_name(e) for e in entries if e.key.startswith("manifests/")]:
        manifest, blobs = store.manifest_and_blobs(digest)
        owner |= {sha: min(manifest.kind, owner.get(sha, manifest.kind)) for sha in blobs}
    kinds: defaultdict[str, Amount] = defaultdict(Amount)
    unreferenced = Amount()
    for entry in entries:
        if entry.key.startswith("blobs/"):
            (kinds[owner[_name(entry)]] if _name(entry) in owner else unreferenced).add(entry.size)
    return DiskUse(dict(areas), dict(kinds), unreferenced)


def gc(store: ArtifactStore, min_age_s: float = DAY_S, dry_run: bool = False) -> GcReport:
    """Delete what is older than `min_age_s` and in nobody's use.

    Raises:
        UserError: something that may be in use cannot be read (damaged, or of a newer schema); nothing is deleted then.
    """
    now = _store_clock(store)
    entries = list(store.backend.list())  # listed before marking: what is written later is in use
    listed = frozenset(entries)
    live = _Live(store, lambda entry: now - entry.modified < min_age_s or entry not in listed, now)
    live.mark()
    report = GcReport(dry_run)
    for area in ORDER:
        old = (e for e in entries if e.key.startswith(f"{area}/") and not live.is_young(e))
        garbage = (e for e in old if not live.keeps(e))
        while batch := list(islice(garbage, BATCH)):
            for entry in batch if dry_run else _delete(store, live, batch):
                report.deleted[area].add(entry.size)
    if not dry_run:
        for entry in entries:
            if entry.key.startswith("gc/") and now - entry.modified > STALE_NOTICE_S:  # of a collector that was killed
                store.backend.delete(entry.key)
    report.unfinished = store.backend.sweep(max(min_age_s, STALE_NOTICE_S), dry_run)
    report.kept_manifests, report.lost_parents = len(live.manifests | live.evidence), sorted(live.lost)
    report.kept_blobs = sum(e.key.startswith("blobs/") for e in entries) - report.deleted["blobs"].objects
    return report


class _Live:
    """What is in use: digests of manifests, sha256 of blobs, keys of work under way."""

    def __init__(self, store: ArtifactStore, is_young: Callable[[Entry], bool], now: float):
        self.store, self.is_young, self.now = store, is_young, now
        self.manifests, self.blobs, self.works, self.lost = set[str](), set[str](), set[str](), set[str]()
        self.evidence = set[str]()
        """Manifests that a pin keeps without what lies above them."""
        self._known, self._read = set[str](), set[Entry]()

    def mark(self) -> None:
        """Find what is in use; called again, it adds what came since."""
        manifests = list(self.store.backend.list("manifests/"))
        self._known = {_name(e) for e in manifests}
        pins = list(self.store.pinned().values())
        self._reach([*(d for d, above in pins if above is None), *(_name(e) for e in manifests if self.is_young(e))])
        for digest, generations in pins:
            if generations is not None:
                self._reach_near(digest, generations)
        for entry in self.store.backend.list("actions/"):
            if self.is_young(entry):
                self._read_mentions(entry)
        work = sorted(self.store.backend.list("work/"), key=lambda e: e.key)
        for key, group in groupby(work, key=lambda e: e.key.split("/")[1]):
            entries = list(group)
            if key in self.works or any(map(self.is_young, entries)) or self._has_live_lease(entries):
                self.works.add(key)
                for entry in entries:
                    if "/lease/" in entry.key or entry.key.endswith(".json"):
                        self._read_mentions(entry)

    def keeps(self, entry: Entry) -> bool:
        match entry.key.split("/")[0]:
            case "actions":  # of use as long as all that it made is there
                made = re.findall(rb'"blob":"([0-9a-f]{64})"', self._get(entry))
                return all(sha.decode() in self.blobs for sha in made)
            case "manifests" | "children" | "registry":
                return _name(entry) in self.manifests or _name(entry) in self.evidence
            case "work":
                return entry.key.split("/")[1] in self.works
            case "blobs":
                return _name(entry) in self.blobs
        return True

    def _reach(self, digests: Iterable[str]) -> None:
        """Mark manifests, their ancestors, and the blobs of them all."""
        ahead = set(digests) - self.manifests
        while ahead:
            digest = ahead.pop()
            try:
                manifest, blobs = self.store.manifest_and_blobs(digest)
            except NotFoundError:
                self.lost.add(digest)
                continue
            self.manifests.add(digest)
            self.blobs |= blobs
            ahead |= set(manifest.parent_digests) - self.manifests - self.lost

    def _reach_near(self, digest: str, generations: int) -> None:
        """Mark a manifest and so many generations of its ancestors: apart, for what is reached in full leads further up."""
        ahead = {digest}
        for _ in range(generations + 1):
            parents = set[str]()
            for one in ahead:
                with suppress(NotFoundError):
                    manifest, blobs = self.store.manifest_and_blobs(one)
                    self.evidence.add(one)
                    self.blobs |= blobs
                    parents |= set(manifest.parent_digests)
            ahead = parents

    def _read_mentions(self, entry: Entry) -> None:
        """Mark every blob and manifest whose sha256 an object mentions, whatever its format."""
        if entry not in self._read:
            mentioned = {sha.decode() for sha in re.findall(rb"[0-9a-f]{64}", self._get(entry))}
            self.blobs |= mentioned
            self._reach(mentioned & self._known)
            self._read.add(entry)

    def _has_live_lease(self, entries: list[Entry]) -> bool:
        leases = [e for e in entries if "/lease/" in e.key]
        data = self._get(leases[-1]) if leases else b""
        record = LeaseRecord.model_validate_json(data) if data else None
        silent_s = self.now - leases[-1].modified if leases else 0.0
        return record is not None and not record.released and silent_s < SILENT_TTLS * record.ttl_s

    def _get(self, entry: Entry) -> bytes:
        with suppress(NotFoundError):  # deleted since the listing
            return self.store.backend.get(entry.key)
        return b""


def _delete(store: ArtifactStore, live: _Live, batch: list[Entry]) -> list[Entry]:
    """Delete, under a notice, what is still not in use; returns what was deleted."""

    def delete(entry: Entry) -> bool | None:
        if not in_time():
            return None
        found = store.backend.stat(entry.key)
        if found is None or found.modified != entry.modified or live.keeps(entry):
            return False
        store.backend.delete(entry.key)
        return True

    deleted: list[Entry] = []
    while batch:
        with notice(store.backend, [e.key for e in batch]) as in_time, ThreadPoolExecutor(16) as pool:
            live.mark()
            outcomes = list(zip(batch, pool.map(delete, batch), strict=True))
        deleted += [entry for entry, gone in outcomes if gone]
        batch = [entry for entry, gone in outcomes if gone is None]  # again, under a new notice
    return deleted


def _store_clock(store: ArtifactStore) -> float:
    """The time by the clock that stamps the objects; this host's may be wrong."""
    key = f"gc/{uuid.uuid4().hex}"
    store.backend.put(key, b"[]")
    found = store.backend.stat(key)
    store.backend.delete(key)
    return found.modified if found else time.time()


def _name(entry: Entry) -> str:
    return entry.key.rpartition("/")[2]
