"""Several corpora into one."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from tokenmill.curation.config import MergeConfig
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.records import JSONL
from tokenmill.steps import StepContext, step

MOVERS = ("curation.merge", "curation.plan")
"""Steps that move shards and touch no document: no stage of a funnel, no part of a document's history."""


def only_moves(manifest: Manifest) -> bool:
    """Whether a step did nothing to any document: it never does, or is switched off."""
    return manifest.step in MOVERS or bool(manifest.facts.get("off"))


@step("curation.merge", version=1, kinds={"corpora": "corpus"})
def merge(config: MergeConfig, corpora: list[Manifest], ctx: StepContext) -> Draft:
    """One corpus of all shards, renumbered; no record is read, and the order of the inputs does not matter."""
    shards = merged(corpora)
    return Draft(kind="corpus", shards=shards, counts={"records": sum(s.records for s in shards)})


def merged(corpora: Sequence[Manifest]) -> tuple[Shard, ...]:
    """The shards of all corpora, numbered anew in each partition; a shard that two corpora share is taken once.

    Raises:
        InputError: nothing is left in any of them.
    """
    partitions: defaultdict[str, dict[str, Shard]] = defaultdict(dict)
    for corpus in corpora:
        for shard in corpus.shards:
            known = partitions[shard.name.rpartition("/")[0]].setdefault(shard.content, shard)
            if (shard.name, shard.blob) < (known.name, known.blob):
                partitions[shard.name.rpartition("/")[0]][shard.content] = shard
    shards: list[Shard] = []
    for partition in sorted(partitions):
        ordered = sorted(partitions[partition].values(), key=lambda s: (s.name, s.content))
        shards += [s.model_copy(update={"name": f"{partition}/part-{i:05d}{JSONL}"}) for i, s in enumerate(ordered)]
    if not shards:
        reasons = sum((Counter(corpus.dropped) for corpus in corpora), Counter())
        raise InputError(f"no record left in {len(corpora)} corpora; dropped last: {dict(reasons.most_common(5))}")
    return tuple(shards)
