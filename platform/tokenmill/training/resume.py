"""Which checkpoint a training goes on from. No torch here: the launcher asks before any rank starts.

A checkpoint lies under `work/<key>/checkpoints/<step>/ranks-<ranks>-zero-<stage>/`, because DeepSpeed's files fit only the
layout that wrote them. It is complete when the marker of every rank is there.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from tokenmill.store import ArtifactStore

_MARKER = re.compile(r"/checkpoints/(\d+)/ranks-(\d+)-zero-(\d)/rank-(\d+)\.json$")
_REGROUPED = (1, 2)
"""ZeRO stages whose shards can be regrouped. At stage 3 DeepSpeed's conversion gives every parameter group the weight decay
of the first, and at 0 there are no shards."""


class Layout(NamedTuple):
    """How optimizer states are spread over ranks."""

    ranks: int
    zero_stage: int

    def __str__(self) -> str:
        return f"{self.ranks} rank{'s' if self.ranks > 1 else ''} at ZeRO stage {self.zero_stage}"

    def can_load(self, other: "Layout") -> bool:
        """As it is, or regrouped through a universal checkpoint."""
        return self == other or {self.zero_stage, other.zero_stage} <= set(_REGROUPED)


class Complete(NamedTuple):
    """A complete checkpoint in the store."""

    step: int
    layout: Layout

    def folder(self, key: str) -> str:
        return f"work/{key}/checkpoints/{self.step}/ranks-{self.layout.ranks}-zero-{self.layout.zero_stage}"


def complete_checkpoints(store: ArtifactStore, key: str) -> list[Complete]:
    """Every checkpoint of an action key that all its ranks finished, the oldest first."""
    return complete_among(entry.key for entry in store.backend.list(f"work/{key}/checkpoints/"))


def complete_among(keys: Iterable[str]) -> list[Complete]:
    """The checkpoints that all their ranks finished, of objects under a key's `checkpoints/`; the oldest first."""
    seen: defaultdict[Complete, set[int]] = defaultdict(set)
    for key in keys:
        if found := _MARKER.search(key):
            step, ranks, stage, rank = map(int, found.groups())
            seen[Complete(step, Layout(ranks, stage))].add(rank)
    return sorted(checkpoint for checkpoint, ranks in seen.items() if len(ranks) == checkpoint.layout.ranks)


def surplus(keys: Iterable[str], keep_last: int, keep_every: int) -> list[str]:
    """The objects of checkpoints that retention gives up: all but the last complete ones and one every so many steps.

    What is not complete stays while it may still become so: as long as nothing newer is.
    """
    keys = list(keys)
    complete = sorted({checkpoint.step for checkpoint in complete_among(keys)})
    if not complete:
        return []
    kept = set(complete[-keep_last:])
    for before, step in zip([0, *complete], complete, strict=False):
        if keep_every and step // keep_every > before // keep_every:
            kept.add(step)
    return [
        key
        for key in keys
        if (step := int(key.split("/checkpoints/")[1].split("/")[0])) < complete[-1] and step not in kept
    ]


def usable_checkpoints(store: ArtifactStore, key: str, layout: Layout) -> list[Complete]:
    """The complete checkpoints that a layout can load, the newest first; of the same step its own first."""
    usable = [c for c in complete_checkpoints(store, key) if layout.can_load(c.layout)]
    return sorted(usable, key=lambda c: (c.step, c.layout == layout), reverse=True)


def newest_checkpoint(store: ArtifactStore, key: str, layout: Layout) -> Complete | None:
    """The newest complete checkpoint that a layout can load."""
    return next(iter(usable_checkpoints(store, key, layout)), None)


def count_start(store: ArtifactStore, key: str) -> int:
    """How often the training of an action key was begun before; counts this time too. Its lease lets one begin at a time."""
    place = f"work/{key}/starts.json"
    before = int(store.backend.get(place)) if store.backend.exists(place) else 0
    store.backend.put(place, str(before + 1).encode())
    return before


def outlook(store: ArtifactStore, key: str, layout: Layout) -> tuple[bool, str]:
    """Whether saved work is left unused, and a line on where a training will start; empty where nothing is saved."""
    saved, chosen = complete_checkpoints(store, key), newest_checkpoint(store, key, layout)
    if not saved:
        return False, ""
    start = f"from the checkpoint of step {chosen.step} by {chosen.layout}" if chosen else "from the beginning"
    newest = saved[-1]
    if chosen and chosen.step == newest.step:
        return False, f"{layout}: going on {start}"
    return True, (
        f"{layout}: starting {start}. The checkpoint of step {newest.step} by {newest.layout} cannot be loaded so: set "
        f"execution.ranks={newest.layout.ranks} and execution.zero_stage={newest.layout.zero_stage} to go on from it"
    )
