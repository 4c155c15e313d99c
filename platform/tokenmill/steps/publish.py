"""What a command brings into a store by itself, outside any run: a model, a dataset."""

from tokenmill.manifest import Draft, Manifest
from tokenmill.steps.runner import made_in, observed
from tokenmill.store import ArtifactStore


def publish(store: ArtifactStore, draft: Draft, step: str, version: int, **parents: Manifest) -> Manifest:
    """Issue and store the manifest of what was brought in. `step` is the name that lineage shows for its maker."""
    manifest = Manifest.issue(
        draft,
        parents={role: (parent.digest,) for role, parent in parents.items()},
        step=step,
        version=version,
        config={},
        observed=observed() | made_in(store),
    )
    store.put_manifest(manifest)
    return manifest
