"""A stage of a funnel, twice: what its manifests say, and what its shards hold. The two must agree, from stage to stage."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from tokenmill.curation.config import FunnelConfig
from tokenmill.curation.survey import (
    SCORE_BINS,
    Example,
    Findings,
    Job,
    Partition,
    Sampled,
    Surveyor,
    Tally,
    bundled,
    group,
)
from tokenmill.errors import CorruptError
from tokenmill.manifest import Manifest, Shard
from tokenmill.records import JSONL
from tokenmill.steps import StepContext


@dataclass(frozen=True)
class Stage:
    """What a step's manifests say."""

    step: str
    manifests: tuple[Manifest, ...]
    came: int
    kept: int
    rejected: int
    dropped: dict[str, int]
    """Reason → records dropped or rejected."""
    joins: bool

    @classmethod
    def read(cls, manifests: Sequence[Manifest], step: str) -> "Stage":
        dropped: Counter[str] = Counter()
        for manifest in manifests:
            dropped.update(manifest.dropped)
        return cls(
            step,
            tuple(manifests),
            came=sum(m.counts.get("in", m.counts["records"]) for m in manifests),
            kept=sum(m.counts["records"] for m in manifests),
            rejected=sum(m.counts.get("rejected", 0) for m in manifests),
            dropped=dict(sorted(dropped.items())),
            joins=any("code_files" in m.counts for m in manifests),
        )

    def jobs(self, rates: Mapping[str, float]) -> Iterator[Job]:
        """Every shard of its corpora, and every one that was set aside."""
        for manifest in self.manifests:
            for shard in manifest.shards:
                if shard.name.endswith(JSONL):
                    yield Job(shard.blob, "kept", shard.size, rates.get(_group(shard), 0.0))
            for shard in manifest.aside:
                yield Job(shard.blob, "rejected" if shard.name.startswith("rejected/") else "dropped", shard.size)

    def rates(self, sample: int) -> dict[str, float]:
        """Group → the share of its kept documents that makes about `sample` of them."""
        sizes: Counter[str] = Counter()
        for manifest in self.manifests:
            for shard in manifest.shards:
                sizes[_group(shard)] += shard.records
        return {name: min(1.0, sample / size) for name, size in sizes.items() if size}


_PARTITION = re.compile(r"type=([^/]+)/lang=([^/]+)/")


def _group(shard: Shard) -> str:
    """What a shard's name says of its documents; nothing, where it is no partition's."""
    said = _PARTITION.match(shard.name)
    return group(*said.groups()) if said else ""


@dataclass
class Counted:
    """What a stage's shards say."""

    kept: dict[Partition, Tally] = field(default_factory=dict)
    dropped: dict[tuple[str, Partition], Tally] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    sample: list[Sampled] = field(default_factory=list)
    scores: dict[str, list[int]] = field(default_factory=dict)
    """Score → documents a bin, of what was kept."""
    scores_dropped: dict[str, list[int]] = field(default_factory=dict)

    def absorb(self, found: Findings, rates: Mapping[str, float], n_examples: int) -> None:
        """Take in one shard's findings; their order does not matter."""
        for (reason, where), tally in found.tallies.items():
            if reason or found.aside:
                self.dropped.setdefault((reason, where), Tally()).add(tally)
            else:
                self.kept.setdefault(where, Tally()).add(tally)
        held = self.scores_dropped if found.aside else self.scores
        for name, bins in found.scores.items():
            held[name] = [a + b for a, b in zip(held.get(name, [0] * SCORE_BINS), bins, strict=True)]
        for reason, examples in found.examples.items():
            self.examples[reason] = sorted([*self.examples.get(reason, []), *examples])[:n_examples]
        self.sample += [one for one in found.sample if one.place < rates.get(one.group, rates.get("", 0.0))]

    @property
    def all_kept(self) -> Tally:
        return total(self.kept.values())

    @property
    def all_dropped(self) -> Tally:
        return total(self.dropped.values())

    @property
    def joined(self) -> int:
        """How many fewer documents there are than files."""
        return sum(t.files - t.documents for t in (self.all_kept, self.all_dropped))

    def reasons(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for (reason, _), tally in self.dropped.items():
            counts[reason] += tally.documents
        return dict(sorted(counts.items()))


def total(tallies: Iterable[Tally]) -> Tally:
    summed = Tally()
    for tally in tallies:
        summed.add(tally)
    return summed


def count(stages: Sequence[Stage], config: FunnelConfig, ctx: StepContext) -> list[Counted]:
    """Read every shard once, in parallel; the ends of the funnel are sampled."""
    ends = (0, len(stages) - 1)
    rates = [stage.rates(config.sample) if i in ends else {} for i, stage in enumerate(stages)]
    jobs: dict[tuple[str, str], Job] = {}
    owners: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for i, stage in enumerate(stages):
        for job in stage.jobs(rates[i]):
            owners[job.blob, job.holds].append(i)
            known = jobs.setdefault((job.blob, job.holds), job)
            if known.rate < job.rate:
                jobs[job.blob, job.holds] = job
    counted = [Counted() for _ in stages]
    surveyor = Surveyor(ctx.store.uri, config.examples, config.excerpt)
    read = ctx.parallel(surveyor, bundled(jobs.values()), "shards")
    for key, found in zip(jobs, chain.from_iterable(read), strict=True):
        for i in owners[key]:
            counted[i].absorb(found, rates[i], config.examples)
    return counted


def check(stage: Stage, seen: Counted, before: Stage | None, joined: int) -> None:
    """Σ in = Σ kept + Σ dropped + Σ rejected, in the manifests and again in the shards, from stage to stage.

    Raises:
        CorruptError: it does not hold; says which numbers and by how many.
    """
    gone = sum(stage.dropped.values())
    where = f"{stage.step} ({', '.join(m.digest[:12] for m in stage.manifests[:3])})"
    if before and stage.came != before.kept:
        raise CorruptError(
            f"the funnel is broken: {before.step} kept {before.kept:,} documents, but {where} read {stage.came:,}; "
            "give stages of one chain, in their order"
        )
    if stage.came != stage.kept + gone + joined:
        joins = f" + {joined:,} joined" if joined else ""
        raise CorruptError(
            f"the funnel does not add up: {where} read {stage.came:,} documents, but {stage.kept:,} kept + "
            f"{gone - stage.rejected:,} dropped + {stage.rejected:,} rejected{joins} = {stage.kept + gone + joined:,}; "
            f"{abs(stage.came - stage.kept - gone - joined):,} are unaccounted for. Rerun {stage.step}"
        )
    if "" in stage.dropped or any(not reason for reason, _ in seen.dropped):
        raise CorruptError(f"the funnel does not add up: {where} dropped documents without a reason")
    if seen.all_kept.documents != stage.kept:
        raise CorruptError(
            f"the funnel does not add up: {where} says it kept {stage.kept:,} documents, but its shards hold "
            f"{seen.all_kept.documents:,}. Rerun {stage.step}"
        )
    if (aside := seen.reasons()) != stage.dropped:
        reason = min(r for r in aside.keys() | stage.dropped.keys() if aside.get(r) != stage.dropped.get(r))
        raise CorruptError(
            f"the funnel does not add up: {where} says it dropped {stage.dropped.get(reason, 0):,} for {reason!r}, but "
            f"{aside.get(reason, 0):,} were set aside. Rerun {stage.step}"
        )
