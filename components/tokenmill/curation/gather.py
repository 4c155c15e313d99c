"""The results of a corpus's groups as one artifact, as if one task had made it."""

from collections import Counter
from collections.abc import Sequence

from tokenmill.curation.config import GatherConfig
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import StepContext, step


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
