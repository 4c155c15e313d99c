"""Groups of shards for parallel tasks: a corpus of any size goes through tasks of bounded size.

How many groups there are follows from the data and `group_bytes` alone, never from the number of workers or nodes; so the
same corpus gives the same groups, and a group whose shards did not change is found done.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from tokenmill.curation.config import PlanConfig
from tokenmill.curation.merge import merged
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.registered import is_document, is_file
from tokenmill.steps import StepContext, step

GROUP = "group-{:05d}"


@step("curation.plan", version=1, kinds={"whole": ("sources", "corpus")})
def plan(config: PlanConfig, whole: list[Manifest], ctx: StepContext) -> dict[str, Draft]:
    """Registered sources, or corpora taken together, in groups: `group-00000`, `group-00001`, … Nothing is read."""
    drafts = sources_groups(whole[0], config) if whole[0].kind == "sources" else corpus_groups(whole, config)
    return {GROUP.format(number): draft for number, draft in enumerate(drafts)}


def loop_items(groups: Mapping[str, Manifest]) -> list[dict[str, str]]:
    """What a KFP loop over the groups is given: a group's digest, and what its tasks' names end with (one group: nothing)."""
    several = len(groups) > 1
    return [
        {"digest": manifest.digest, "suffix": f".{name}" if several else ""}
        for name, manifest in sorted(groups.items())
    ]


def sources_groups(sources: Manifest, config: PlanConfig) -> Iterator[Draft]:
    """Raw files in groups; what is told about a source (its dump, what was taken down) goes with every group.

    Licences stay where they were registered, one step up in every lineage.
    """
    told = [shard for shard in sources.shards if not is_file(shard)]
    for files in in_groups(filter(is_document, sources.shards), config.group_bytes, _stored_bytes):
        counts = {"files": len(files), "bytes": sum(s.size for s in files)}
        yield Draft(kind="sources", shards=(*files, *told), counts=counts)


def corpus_groups(corpora: list[Manifest], config: PlanConfig) -> Iterator[Draft]:
    """The shards of all corpora, renumbered, in groups."""
    for shards in in_groups(merged(corpora), config.group_bytes, _stored_bytes):
        yield Draft(kind="corpus", shards=tuple(shards), counts={"records": sum(s.records for s in shards)})


def in_groups(shards: Iterable[Shard], most: int, size: Callable[[Shard], int]) -> Iterator[list[Shard]]:
    """Shards in the order of their names, in runs of at most `most` by `size`; a larger one stands alone."""
    group: list[Shard] = []
    total = 0
    for shard in sorted(shards, key=lambda s: s.name):
        if group and total + size(shard) > most:
            yield group
            group, total = [], 0
        group.append(shard)
        total += size(shard)
    if group:
        yield group


def _stored_bytes(shard: Shard) -> int:
    return shard.size
