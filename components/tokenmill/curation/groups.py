"""Groups of shards: what parallel tasks divide a corpus into, and how their results become one again.

Groups follow from the shards' names and sizes alone, so that they, and every result, are the same whatever works on them.
"""

from collections import Counter
from collections.abc import Sequence

from tokenmill.curation.config import GatherConfig, PlanDeduplicationConfig, ShardGroupConfig
from tokenmill.errors import ConfigError, InputError
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.steps import StepContext, step


def shard_groups(shards: Sequence[Shard], records: int) -> list[list[Shard]]:
    """Shards in the order of their names, in groups of at most so many records; a larger shard is one by itself."""
    groups: list[list[Shard]] = []
    size = 0
    for shard in sorted(shards, key=lambda s: s.name):
        if not groups or size + shard.records > records:
            groups.append([])
            size = 0
        groups[-1].append(shard)
        size += shard.records
    return groups


def in_group(corpus: Manifest, config: ShardGroupConfig) -> Sequence[Shard]:
    """The shards that a task is to work on."""
    if config.group is None:
        return corpus.shards
    groups = shard_groups(corpus.shards, config.group_records)
    if config.group >= len(groups):
        raise ConfigError(f"group {config.group} of the shards: there are {len(groups)} (0 to {len(groups) - 1})")
    return groups[config.group]


def exchange_parts(documents: int, part_records: int, bands: int) -> int:
    """In how many parts so many bands of so many documents are exchanged: one more for each `part_records`."""
    return min(bands, max(1, -(-documents // part_records)))


@step("curation.plan_deduplication", version=1, kinds={"corpus": "corpus"})
def plan_deduplication(config: PlanDeduplicationConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """How many groups of shards and parts of bands a corpus asks for: what parallel tasks are counted by."""
    groups = shard_groups(corpus.shards, config.group_records)
    records = sum(shard.records for shard in corpus.shards)
    parts = exchange_parts(records, config.part_records, config.bands * config.rounds)
    plan = {"groups": [[shard.name for shard in group] for group in groups], "parts": parts}
    return ctx.write_json("plan", "plan.json", plan, counts={"groups": len(groups), "parts": parts})


@step("curation.gather", version=1, kinds={"whole": "corpus"})
def gather(config: GatherConfig, parts: list[Manifest], whole: Manifest | None, ctx: StepContext) -> Draft:
    """The results of a corpus's groups as one artifact, as if one task had made it: names, counts and reasons.

    With `whole`, the corpus that was divided, a group that is missing is refused.
    """
    draft = gathered(parts)
    read = draft.counts.get("in", draft.counts.get("records", 0))
    if whole and read != whole.counts["records"]:
        raise InputError(
            f"the parts are of {read} records, the corpus has {whole.counts['records']}: a group is missing"
        )
    return draft


def gathered(parts: Sequence[Draft]) -> Draft:
    """Artifacts of one kind with disjoint shards as one; counts and reasons are summed.

    Raises:
        InputError: two have a shard of one name, or they are of several kinds.
    """
    kinds = sorted({part.kind for part in parts})
    if len(kinds) != 1:
        raise InputError(f"parts of one artifact are of one kind, not {kinds or 'none'}")
    names = Counter(shard.name for part in parts for shard in (*part.shards, *part.aside))
    if twice := [name for name, times in names.items() if times > 1]:
        raise InputError(f"{twice[0]} is in two of the parts: was one given twice?")
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for part in parts:
        counts.update(part.counts)
        dropped.update(part.dropped)
    return Draft(
        kind=kinds[0],
        shards=tuple(sorted((s for p in parts for s in p.shards), key=lambda s: s.name)),
        counts=dict(counts),
        dropped=dict(sorted(dropped.items())),
        aside=tuple(sorted((s for p in parts for s in p.aside), key=lambda s: s.name)),
    )
