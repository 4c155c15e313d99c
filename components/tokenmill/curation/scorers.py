"""The scorers of a pipeline's run: what a person made, and small ones for the scores that nobody made one for."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from tokenmill.curation.scorer import CARD
from tokenmill.curation.scorer_config import CollectScorersConfig
from tokenmill.errors import InputError, told_in_one_line
from tokenmill.lineage import resolve
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import StepContext, step
from tokenmill.steps.component import RunContext
from tokenmill.steps.registry import configured, find
from tokenmill.store import open_store


@step("curation.collect_scorers", version=1, kinds={"scorers": ("scorer", "scorers")})
def collect_scorers(config: CollectScorersConfig, scorers: list[Manifest] | None, ctx: StepContext) -> Draft:
    """Several scorers as one artifact, for the tasks of a loop: a folder each. Nothing is read."""
    shards = {}
    for manifest in scorers or ():
        for shard in manifest.shards:
            folder = "" if manifest.kind == "scorers" else f"{manifest.content[:16]}/"
            shards[f"{folder}{shard.name}"] = shard.model_copy(update={"name": f"{folder}{shard.name}"})
    return Draft(
        kind="scorers",
        shards=tuple(shards[name] for name in sorted(shards)),
        counts={"scorers": sum(PurePosixPath(name).name == CARD for name in shards)},
        facts={"scores": sorted(scores_of(scorers or ()))},
    )


def folders_in(folder: Path) -> list[Path]:
    """The folders of the scorers that an artifact's folder holds: itself, or those in it."""
    return [folder] if (folder / CARD).is_file() else sorted(card.parent for card in folder.glob(f"*/{CARD}"))


def scores_of(scorers: Iterable[Manifest]) -> set[str]:
    """The scores that these give."""
    return {name for one in scorers for name in one.facts.get("scores", [one.facts.get("score")])}


def given_scorers(uris: Sequence[str]) -> list[Manifest]:
    """Scorers by digests, their beginnings, or manifests' URIs."""
    with told_in_one_line():
        store = open_store()
        given = [store.get_manifest(resolve(store, uri)) for uri in uris]
        for uri, manifest in zip(uris, given, strict=True):
            if manifest.kind not in ("scorer", "scorers"):
                raise InputError(f"scorers: {uri} is of kind {manifest.kind}; give what curation.train_scorer made")
    return given


def lacking(run: str, given: Iterable[Manifest]) -> list[str]:
    """The scores of `curation.score.scores` that no given scorer gives. `run` is a `RunContext` as JSON."""
    context = RunContext.model_validate_json(run)
    wanted = configured(find("curation.score"), context.run.preset, context.overrides).model_dump()["scores"]
    return [name for name in wanted if name not in scores_of(given)]
