"""Groups of shards: what parallel tasks divide a corpus into, and how their results become one again.

Groups follow from the shards' names and sizes alone, so that they, and every result, are the same whatever works on them.
"""

from collections import Counter
from collections.abc import Sequence

from tokenmill.curation.config import GatherConfig, ShardGroupConfig
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


@step("curation.gather", version=1)
def gather(config: GatherConfig, parts: list[Manifest], ctx: StepContext) -> Draft:
    """The results of a corpus's groups as one artifact, as if one task had made it: names, counts and reasons."""
    return gathered(parts)


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
