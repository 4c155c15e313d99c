"""What people have labelled so far, as preferences: a round starts with these, and waits for nobody (report §4.2.2)."""

from tokenmill.manifest import Draft
from tokenmill.records import JSONL
from tokenmill.rlhf.annotation_store import labelled, retire
from tokenmill.rlhf.annotations import agreement, preferences, wins
from tokenmill.rlhf.config import SnapshotAnnotationsConfig
from tokenmill.steps import StepContext, effect


@effect("rlhf.snapshot_annotations", version=1)
def snapshot_annotations(config: SnapshotAnnotationsConfig, ctx: StepContext) -> Draft:
    """The majority's preference of every labelled pair; drops names and times that are past their retention."""
    if config.retention_days is not None and (retired := retire(ctx.store, config.retention_days)):
        ctx.log.info("annotators and times dropped", imports=retired, older_than_days=config.retention_days)
    found = labelled(ctx.store)
    records, dropped = preferences(found.pairs, found.counts, config.min_labels)
    alpha = agreement(found.counts.values())
    ctx.metrics({"labelled_pairs": len(found.counts), "preferences": len(records)})
    if alpha is not None:
        ctx.metric("agreement", alpha)
    facts = {
        "agreement": alpha and round(alpha, 4),
        "batches": sorted({found.pairs[identity].batch for identity in found.counts}),
        "wins": {name: dict(sorted(cast.items())) for name, cast in wins(found.pairs, found.counts).items()},
    }
    return ctx.write_records("preferences", {f"part-00000{JSONL}": records}, dropped=dict(dropped), facts=facts)
