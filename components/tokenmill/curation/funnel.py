"""The funnel: what each stage kept and dropped and why, checked to add up, as funnel.json and funnel.html.

A stage's counts come from its manifest; documents, bytes and reasons are counted once more from its shards, kept and
set aside. The two must agree, and a stage must be given what the stage before it kept: a document that is in neither
place stops the step.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import orjson

from tokenmill.curation.config import FunnelConfig
from tokenmill.curation.distributions import distributions
from tokenmill.curation.merge import only_moves
from tokenmill.curation.scorer import orientation
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
from tokenmill.errors import CorruptError, InputError
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.records import JSONL
from tokenmill.steps import StepContext, effect

PAGE, DATA = "funnel.html", "funnel.json"


@effect("curation.funnel", version=3, kinds={"stages": "corpus"})
def funnel(config: FunnelConfig, stages: list[Manifest], ctx: StepContext) -> Draft:
    """Report the stages, in the order given; corpora of one step are one stage in groups, a merge is none.

    An effect, since what a stage dropped is no part of its content, by which a step's result would be found again.

    Raises:
        CorruptError: a stage's numbers do not add up.
    """
    from tokenmill.curation.funnel_page import page  # every step of the phase is found beside this one, few draw pages

    told = report([Stage.read(manifests, step) for step, manifests in grouped(stages).items()], config, ctx)
    folder = ctx.workdir / "funnel"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DATA).write_bytes(orjson.dumps(told, option=orjson.OPT_SORT_KEYS))
    (folder / PAGE).write_text(page(told), "utf-8")
    first, last = told["stages"][0], told["stages"][-1]
    ctx.metrics({"documents_in": first["in"], "documents_kept": last["kept"]})
    draft = ctx.write_files("report", folder, counts={"stages": len(told["stages"])})
    for shard in draft.shards:
        ctx.events.artifact(shard.name, shard.blob)
    return draft


def grouped(manifests: Iterable[Manifest]) -> dict[str, list[Manifest]]:
    """Step → its corpora, in the order in which steps come first."""
    groups: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        if not only_moves(manifest):
            groups.setdefault(manifest.step, []).append(manifest)
    if not groups:
        raise InputError("curation.funnel: a merged corpus alone is no stage; give the corpora that it was merged of")
    return groups


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


def report(stages: Sequence[Stage], config: FunnelConfig, ctx: StepContext) -> dict[str, Any]:
    """The whole report as JSON."""
    counted = count(stages, config, ctx)
    rows = []
    for i, (stage, seen) in enumerate(zip(stages, counted, strict=True)):
        before = counted[i - 1] if i else None
        joined = seen.joined - before.joined if before else seen.joined * stage.joins
        check(stage, seen, stages[i - 1] if i else None, joined)
        rows.append(row(stage, seen, before, joined))
    ends = (counted[0].sample, counted[-1].sample)
    return {
        "stages": rows,
        "scores": scores(stages, counted),
        "distributions": distributions(*ends),
        "sample": config.sample,
    }


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


# --- the report's parts ----------------------------------------------------------------------------------------------


def row(stage: Stage, seen: Counted, before: Counted | None, joined: int) -> dict[str, Any]:
    """One stage's numbers. Bytes are of text as it stood when the stage had done with it."""
    kept, dropped = seen.all_kept, seen.all_dropped
    places = sorted(seen.kept.keys() | {where for _, where in seen.dropped})
    return {
        "step": stage.step,
        "manifests": [m.digest for m in stage.manifests],
        "in": stage.came,
        "kept": stage.kept,
        "rejected": stage.rejected,
        "joined": joined,
        "dropped": stage.dropped,
        "bytes": {
            "in": before.all_kept.bytes if before else kept.bytes + dropped.bytes,
            "kept": kept.bytes,
            "dropped": dropped.bytes,
        },
        "reasons": [reason(name, stage, seen) for name in sorted(stage.dropped, key=lambda r: (-stage.dropped[r], r))],
        "partitions": {
            where: {
                "kept": shown(seen.kept.get(where, Tally())),
                "dropped": shown(total(t for (_, w), t in seen.dropped.items() if w == where)),
            }
            for where in places
        },
    }


def reason(name: str, stage: Stage, seen: Counted) -> dict[str, Any]:
    by_place = {where: tally for (r, where), tally in seen.dropped.items() if r == name}
    return shown(total(by_place.values())) | {
        "reason": name,
        "share": stage.dropped[name] / stage.came,
        "partitions": {where: by_place[where].documents for where in sorted(by_place)},
        "examples": [example.shown for example in seen.examples.get(name, [])],
    }


def shown(tally: Tally) -> dict[str, int]:
    return {"documents": tally.documents, "bytes": tally.bytes}


def scores(stages: Sequence[Stage], counted: Sequence[Counted]) -> dict[str, Any]:
    """Score → who gives it, and all documents' histograms: where it comes first (before it decides), and at the end."""
    told: dict[str, Any] = {}
    nothing = [0] * SCORE_BINS
    for stage, seen in zip(stages, counted, strict=True):
        for name in sorted((seen.scores.keys() | seen.scores_dropped.keys()) - told.keys()):
            kept, dropped = seen.scores.get(name, nothing), seen.scores_dropped.get(name, nothing)
            scorers = {
                m.facts["scorers"][name]["digest"] for m in stage.manifests if name in m.facts.get("scorers", {})
            }
            told[name] = {
                "step": stage.step,
                "scorers": sorted(scorers),
                "higher_is": orientation(name),
                "edges": [i / SCORE_BINS for i in range(SCORE_BINS + 1)],
                "before": [a + b for a, b in zip(kept, dropped, strict=True)],
                "after": counted[-1].scores.get(name, nothing),
            }
    return told
