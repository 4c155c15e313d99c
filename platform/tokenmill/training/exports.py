"""Weights of the way: what a model was before a step, stored at once, so that whoever goes on after a kill has them still."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenmill.manifest import Draft, Shard
from tokenmill.steps.files import store_file
from tokenmill.store import ArtifactStore

if TYPE_CHECKING:
    from tokenmill.training.loop import Loop
    from tokenmill.training.run import TrainingRun

KEPT = "kept_weights"


class Exports:
    """The exported weights of one action key, by the optimizer step that they were taken before."""

    def __init__(self, store: ArtifactStore, key: str) -> None:
        self.store, self.key = store, key

    def keep(self, step: int, folder: Path, tokens: int) -> None:
        """Store a weights folder; of a step that is done again, the later one counts."""
        draft = weights(self.store, folder, step, tokens)
        self.store.backend.put(self._place(step), draft.model_dump_json().encode())

    def at(self, step: int) -> Draft:
        return Draft.model_validate_json(self.store.backend.get(self._place(step)))

    def _place(self, step: int) -> str:
        return f"work/{self.key}/exports/{step}.json"


def left(store: ArtifactStore, run: "TrainingRun", loop: "Loop", folder: Path) -> dict[str, Draft]:
    """All weights that a training leaves: the chosen ones, milestones, and those of the way.

    The last ones are written into `folder` only where something is made of them.
    """
    steps, facts, kept_at = len(run.batches), dict(loop.facts), run.kept_at or ()
    if loop.skipped:
        facts["skipped_steps"] = sorted(loop.skipped)
    way = {step: loop.exports.at(step) for step in sorted(kept_at) if step < steps}
    if not loop.best or steps in kept_at:
        run.export(run.model, folder)
        way[steps] = weights(store, folder, steps, loop.tokens)
    if loop.best and run.best_by:
        step, value = loop.best
        chosen, facts["best"] = loop.exports.at(step), {"step": step, run.best_by.metric: value}
    else:
        chosen = way[steps]
    drafts = {"weights": chosen.model_copy(update={"facts": facts})}
    drafts |= {role: loop.exports.at(step) for role, step in run.milestones.items()}
    if run.kept_at is not None:
        drafts["kept"] = together([one for step, one in way.items() if step in kept_at])
    return drafts


def weights(store: ArtifactStore, folder: Path, steps: int, tokens: int) -> Draft:
    """A weights folder as an artifact."""
    return Draft(kind="weights", shards=stored(store, folder), counts={"tokens_seen": tokens, "steps": steps})


def together(way: Sequence[Draft]) -> Draft:
    """Weights of the way as one artifact: a folder each, named by its step; facts say which saw how many tokens."""
    folders = [f"{one.counts['steps']:09d}" for one in way]
    shards = (
        shard.model_copy(update={"name": f"{folder}/{shard.name}"})
        for folder, one in zip(folders, way, strict=True)
        for shard in one.shards
    )
    facts = {"kept": [{"folder": folder} | one.counts for folder, one in zip(folders, way, strict=True)]}
    return Draft(kind=KEPT, shards=tuple(shards), counts={"kept": len(way)}, facts=facts)


def apart(kept: Draft) -> list[Draft]:
    """The weights that `together` put together, in order."""
    way = []
    for one in kept.facts["kept"]:
        folder = f"{one['folder']}/"
        own = (shard for shard in kept.shards if shard.name.startswith(folder))
        shards = tuple(shard.model_copy(update={"name": shard.name.removeprefix(folder)}) for shard in own)
        way.append(Draft(kind="weights", shards=shards, counts={n: one[n] for n in ("tokens_seen", "steps")}))
    return way


def stored(store: ArtifactStore, folder: Path) -> tuple[Shard, ...]:
    """Every file of a folder, put into the store."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return tuple(store_file(store, path, path.relative_to(folder).as_posix()) for path in files)
