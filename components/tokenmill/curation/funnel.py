"""The funnel: what each stage kept and dropped and why, checked to add up, as funnel.json and funnel.html.

A stage's counts come from its manifest; documents, bytes and reasons are counted once more from its shards, kept and
set aside. The two must agree, and a stage must be given what the stage before it kept: a document that is in neither
place stops the step.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from tokenmill.curation.config import FunnelConfig
from tokenmill.curation.distributions import distributions
from tokenmill.curation.merge import only_moves
from tokenmill.curation.scorer import orientation
from tokenmill.curation.stages import Counted, Stage, check, count, total
from tokenmill.curation.survey import SCORE_BINS, Tally
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
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
