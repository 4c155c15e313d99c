"""The model in use, which a new one must not fall behind.

An effect, because the registry is the world. It chooses: what leaves is the very model at the alias, or the candidate itself,
of which nothing can be lost.
"""

from tokenmill.errors import InputError
from tokenmill.evaluation.config import CurrentConfig
from tokenmill.manifest import Manifest
from tokenmill.steps import StepContext, effect
from tokenmill.tracking import Registry
from tokenmill.tracking.registry import registered_name


@effect(
    "evaluation.current",
    version=1,
    needs_registry=True,
    kinds={"weights": "weights", "tokenizer": "tokenizer"},
)
def current(config: CurrentConfig, weights: Manifest, tokenizer: Manifest, ctx: StepContext) -> dict[str, Manifest]:
    """Weights and tokenizer of the release at the alias; the candidate's own, which are given, where none stands there.

    Raises:
        InputError: what stands there is gone from this store, or is no release.
    """
    registry, own = Registry(ctx.store), {"weights": weights, "tokenizer": tokenizer}
    name = config.name or registered_name("chat", ctx.run)
    if registry.alias_version(name, config.alias) is None:
        ctx.log.info("no model in use", name=name, alias=config.alias)
        return own
    digest = registry.resolve_model(f"models:/{name}@{config.alias}")
    if not ctx.store.has_manifest(digest):
        raise InputError(
            f"models:/{name}@{config.alias} points at {digest[:12]}, which is not in {ctx.store.uri}: nothing can be compared "
            "with it; set evaluation.current.alias to another one, or remove the alias"
        )
    release = ctx.store.get_manifest(digest)
    if lacking := [role for role in own if len(release.parents.get(role, ())) != 1]:
        raise InputError(f"models:/{name}@{config.alias} is no release: {digest[:12]} has no {lacking[0]} of its own")
    ctx.log.info("model in use", name=name, alias=config.alias, release=digest[:12])
    return {role: ctx.store.get_manifest(release.parents[role][0]) for role in own}
