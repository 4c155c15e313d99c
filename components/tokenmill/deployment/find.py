"""What the registry says of a model that was registered earlier, as the artifact that `deploy` and `promote` take."""

from tokenmill.deployment.config import FindConfig
from tokenmill.deployment.register import REGISTRATION
from tokenmill.errors import InputError
from tokenmill.manifest import Draft
from tokenmill.steps import StepContext, effect
from tokenmill.tracking import Registry


@effect("deployment.find", version=1, needs_registry=True)
def find(config: FindConfig, ctx: StepContext) -> Draft:
    """Name, version and manifest of a registered release; an alias is resolved here, once."""
    registry = Registry(ctx.store)
    name, version = registry.model_version(config.model)
    release = ctx.store.get_manifest(registry.resolve_model(f"models:/{name}/{version}"))
    if release.kind != "release":
        raise InputError(
            f"{config.model} is {release.kind}, not a release: `deployment.bundle` makes one of a chat model"
        )
    value = {"name": name, "version": version, "alias": None, "model": release.digest, "kind": release.kind}
    value |= {"content": release.content, "verdict": None}
    return ctx.write_json("registration", REGISTRATION, value, counts={"version": int(version)})
