"""What the registry says of a model that was registered earlier, as the artifact that `deploy` and `promote` take."""

from tokenmill.deployment.alias import require_not_refused
from tokenmill.deployment.config import FindConfig
from tokenmill.deployment.register import REGISTRATION
from tokenmill.errors import InputError
from tokenmill.manifest import Draft
from tokenmill.steps import StepContext, effect
from tokenmill.tracking import Registry


def registered_release(registry: Registry, model: str) -> tuple[str, str, str]:
    """Name, version and digest of the release at `models:/name@alias` or `models:/name/3`.

    Raises:
        InputError: the gate refused what stands there, or it is no release.
    """
    name, version = registry.model_version(model)
    require_not_refused(f"{model} ({name}/{version})", registry.version_tags(name, version))
    digest = registry.resolve_model(f"models:/{name}/{version}")
    if (kind := registry.store.get_manifest(digest).kind) != "release":
        raise InputError(f"{model} is {kind}, not a release: `deployment.bundle` makes one of a chat model")
    return name, version, digest


@effect("deployment.find", version=2, needs_registry=True)
def find(config: FindConfig, ctx: StepContext) -> Draft:
    """Name, version and manifest of a registered release; an alias is resolved here, once."""
    name, version, digest = registered_release(Registry(ctx.store), config.model)
    release = ctx.store.get_manifest(digest)
    value = {"name": name, "version": version, "alias": None, "model": release.digest, "kind": release.kind}
    value |= {"content": release.content, "verdict": None}
    return ctx.write_json("registration", REGISTRATION, value, counts={"version": int(version)})
