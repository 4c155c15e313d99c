"""What a model was trained on, at any stage of its life: its lineage says.

An effect, because the action cache keys on contents, and the lineage is more than contents: it walks it and writes down what
it found; steps read only what is written there.
"""

from collections.abc import Iterator
from typing import Any

from tokenmill.errors import InputError
from tokenmill.evaluation.config import CollectConfig
from tokenmill.lineage import LineageGraph, Source, upstream
from tokenmill.manifest import Draft, Manifest
from tokenmill.model.config import InternLM2Config
from tokenmill.steps import StepContext, effect
from tokenmill.training.flops import flops_per_token

TRAINING_SETS = "training_sets.json"
TEXTS = ("corpus", "conversations", "preferences")
BARRIERS = (
    "tokenizer",
    "questions",
    "evaluation",
    "comparison",
    "verdict",
    "report",
    "decontamination",
    "training_log",
)
"""No training text reaches a model through artifacts of these kinds,"""
HELDOUT = "heldout"
"""nor through a role of this name, which training only measures."""


@effect("evaluation.collect_training_sets", version=3, kinds={"weights": "weights"})
def collect_training_sets(config: CollectConfig, weights: Manifest, ctx: StepContext) -> Draft:
    """Everything whose text the model was trained on, at any stage of its life; the raw sources and trainings behind it.

    Of each way up the lineage the nearest artifact with text counts: what a filter dropped before was not trained on.
    """
    graph = upstream(ctx.store, weights.digest)
    sets: dict[str, dict[str, Any]] = {}
    seen, ahead = set[str](), [weights.digest]
    while ahead:
        digest = ahead.pop()
        if digest in seen:
            continue
        seen.add(digest)
        manifest = _present(graph, digest, ctx)
        if manifest.kind in TEXTS:
            sets.setdefault(digest, _described(manifest))
        elif manifest.kind == "tokens":
            for parent in manifest.parents.get("corpus", ()):
                sets[parent + digest] = _described(_present(graph, parent, ctx)) | {"tokens": digest}
        elif manifest.kind not in BARRIERS:
            ahead += [d for role, digests in manifest.parents.items() if role != HELDOUT for d in digests]
    found = sorted(sets.values(), key=lambda s: (s["kind"], s["step"], s["digest"], s["tokens"] or ""))
    sources = [source._asdict() for source in (*graph.sources, *_unsourced(graph))]
    value = {
        "model": weights.content,
        "weights": weights.digest,
        "sets": found,
        "sources": sources,
        "trainings": list(_trainings(graph, ctx)),
    }
    return ctx.write_json("training_sets", TRAINING_SETS, value, counts={"sets": len(found), "sources": len(sources)})


def _present(graph: LineageGraph, digest: str, ctx: StepContext) -> Manifest:
    if digest not in graph.nodes:
        raise InputError(
            f"manifest {digest[:12]}, which {graph.root[:12]} was trained from, is gone from {ctx.store.uri}: "
            "its contamination cannot be checked; train again, or evaluate without"
        )
    return graph.nodes[digest]


def _unsourced(graph: LineageGraph) -> Iterator[Source]:
    """Where a lineage ends at no source: at a model from elsewhere, or at what is gone. Nobody stated a licence of that."""
    for digest, manifest in graph.nodes.items():
        if manifest.kind == "weights" and not manifest.parents:
            yield Source(f"weights {digest[:12]} of {manifest.step}", "", "", digest)
    for digest in sorted(graph.missing):
        yield Source(f"{digest[:12]}, which is gone", "", "", digest)


def _described(manifest: Manifest) -> dict[str, Any]:
    return {
        "digest": manifest.digest,
        "kind": manifest.kind,
        "step": manifest.step,
        "content": manifest.content,
        "records": manifest.counts.get("records", 0),
        "tokens": None,
    }


def _trainings(graph: LineageGraph, ctx: StepContext) -> Iterator[dict[str, Any]]:
    """Every training in a lineage, with its own tokens and their operations (attention's share left out).

    `tokens_seen` goes on from the model that a training began with, its `sft` or `base`.
    """
    for digest, manifest in graph.nodes.items():
        if manifest.kind != "weights" or "tokens_seen" not in manifest.counts:
            continue
        begun = next((graph.nodes[d] for role in ("sft", "base") for d in manifest.parents.get(role, ())), None)
        tokens = manifest.counts["tokens_seen"] - (begun.counts.get("tokens_seen", 0) if begun else 0)
        shape = InternLM2Config.from_json(ctx.store.get_blob(manifest.shard("config.json").blob).decode())
        flops = flops_per_token(shape, 0) * tokens
        yield {"digest": digest, "step": manifest.step, "tokens": tokens, "flops": flops}
