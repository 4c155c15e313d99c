"""Models that are broken on purpose: what a gate must refuse."""

from pathlib import Path

from tokenmill.manifest import Manifest
from tokenmill.steps.files import materialise, store_file
from tokenmill.store import ArtifactStore


def reinitialise_layer(
    store: ArtifactStore, weights: Manifest, workdir: Path, layer: int = 0, seed: int = 7
) -> Manifest:
    """The same model with one layer drawn anew, published as if the same step had made it of the same parents.

    Every layer but the first may have learned little in a short run: a nano SFT model's chat perplexity rose from 17 to
    580,000 without layer 0, to 18–20 without one of the others (measured).
    """
    from tokenmill.model.folder import load_model, save_model
    from tokenmill.model.modeling import InternLM2ForCausalLM

    model = load_model(materialise(store, weights, workdir / "whole"), InternLM2ForCausalLM)
    fresh = InternLM2ForCausalLM(model.config, seed=seed)
    model.model.layers[layer].load_state_dict(fresh.model.layers[layer].state_dict())
    save_model(model, workdir / "damaged")
    shards = tuple(store_file(store, path, path.name) for path in sorted((workdir / "damaged").iterdir()))
    damaged = Manifest.model_validate(weights.model_dump() | {"shards": shards})
    store.put_manifest(damaged)
    return damaged
