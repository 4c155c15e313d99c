"""What an MLflow model of ours holds: pointer, config, tokenizer, card, and how MLflow loads it. No weight bytes.

Its MLmodel file names `tokenmill.tracking.pyfunc`, which takes the weights from the store when somebody loads the model.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import orjson

from tokenmill.lineage import LineageGraph, upstream
from tokenmill.manifest import JSON, Manifest
from tokenmill.store import ArtifactStore
from tokenmill.tracking.connection import without_userinfo

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

POINTER, CARD = "manifest.json", "card.md"
_CONFIG = ("config.json", "generation_config.json")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens.json", "chat_template.jinja")
_LOADER = "tokenmill.tracking.pyfunc"

Form = Literal["chat", "plain", "reward"]
"""chat answers conversations, plain continues texts, reward scores answered conversations."""


def write_model(store: ArtifactStore, manifest: Manifest, folder: Path, model_id: str) -> None:
    """Write what the MLflow model `model_id` holds of `manifest`, which is of kind weights or release."""
    lineage = upstream(store, manifest.digest)
    form = form_of(store, lineage)
    (folder / POINTER).write_bytes(manifest.to_json())
    for source in (manifest, _tokenizer(lineage)):
        for shard in source.shards if source else ():
            if shard.name in {*_CONFIG, *_TOKENIZER}:
                (folder / shard.name).write_bytes(store.bytes_of(shard))
    (folder / CARD).write_text("\n".join(_card(store, lineage, form, model_id)) + "\n", "utf-8")
    _write_mlmodel(store, folder, form, model_id)


def form_of(store: ArtifactStore, lineage: LineageGraph) -> Form:
    """A model is for chats once conversations trained it, or weights that it began with."""
    if "InternLM2ForRewardModel" in _json(store, lineage.nodes[lineage.root], "config.json").get("architectures", ()):
        return "reward"
    waiting, seen = [lineage.root], {lineage.root}
    while waiting:
        parents = _parents(lineage, waiting.pop())
        if any(parent.kind == "conversations" for parent in parents):
            return "chat"
        weights = {parent.digest for parent in parents if parent.kind == "weights"} - seen
        seen |= weights
        waiting += weights
    return "plain"


def _tokenizer(lineage: LineageGraph) -> Manifest | None:
    """The nearest tokenizer of the lineage; None for weights from elsewhere."""
    nearest, seen = [lineage.root], {lineage.root}
    while nearest:
        parents = [parent for digest in nearest for parent in _parents(lineage, digest)]
        for parent in parents:
            if parent.kind == "tokenizer":
                return parent
        nearest = list(dict.fromkeys(p.digest for p in parents if p.digest not in seen))
        seen.update(nearest)
    return None


def _parents(lineage: LineageGraph, digest: str) -> list[Manifest]:
    return [lineage.nodes[edge.parent] for edge in lineage.parents(digest) if edge.parent in lineage.nodes]


def _json(store: ArtifactStore, manifest: Manifest, name: str) -> dict[str, JSON]:
    """A JSON file of the artifact; empty where it has none."""
    blobs = [shard.blob for shard in manifest.shards if shard.name == name]
    return dict(orjson.loads(store.get_blob(blobs[0]))) if blobs else {}


# The MLmodel file ---------------------------------------------------------------------------------------------------


def _write_mlmodel(store: ArtifactStore, folder: Path, form: Form, model_id: str) -> None:
    import mlflow.pyfunc
    from mlflow.models import Model

    model = Model(model_id=model_id, signature=_signature(form))
    where = {"store": without_userinfo(store.uri), "form": form}
    mlflow.pyfunc.add_to_model(model, loader_module=_LOADER, model_config=where)
    model.save(str(folder / "MLmodel"))


def _signature(form: Form) -> "ModelSignature":
    """What `predict` takes, one row a chat or text, and gives back, one value a row."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, Object, ParamSchema, ParamSpec, Property, Schema

    message = Object(
        [Property("role", "string"), Property("content", "string"), Property("name", "string", required=False)]
    )
    if form == "reward":
        return ModelSignature(Schema([ColSpec(Array(message), "messages")]), Schema([ColSpec("double")]))
    inputs = Schema([ColSpec("string", "prompt")])
    if form == "chat":
        chats = ColSpec(Array(message), "messages", required=False)
        inputs = Schema([chats, ColSpec("string", "prompt", required=False)])
    sampling = [
        ParamSpec("max_new_tokens", "long", 256),
        ParamSpec("temperature", "double", 0.0),
        ParamSpec("top_p", "double", 1.0),
        ParamSpec("seed", "long", 0),
    ]
    return ModelSignature(inputs, Schema([ColSpec("string")]), ParamSchema(sampling))


# The card -----------------------------------------------------------------------------------------------------------

_KINDS = {
    "chat": "A chat model: it answers conversations.",
    "plain": "A base model: it continues texts, and was trained on no conversation.",
    "reward": "A reward model: it scores the last answer of a conversation, under the wishes of its first system message.",
}
_EXAMPLES = {
    "chat": '{"messages": [{"role": "user", "content": "What is 7 + 5?"}]}',
    "plain": '{"prompt": "Once upon a time"}',
    "reward": '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}',
}


def _card(store: ArtifactStore, lineage: LineageGraph, form: Form, model_id: str) -> Iterator[str]:
    manifest = lineage.nodes[lineage.root]
    name = manifest.facts.get("name") if manifest.kind == "release" else None
    trained = _trained(lineage)
    shape = _json(store, manifest, "config.json")
    yield from (f"# {name or f'{manifest.step} {manifest.digest[:12]}'}", "", _KINDS[form], "")
    yield f"- manifest: `{without_userinfo(store.manifest_uri(manifest.digest))}`; the weights lie in that store"
    for words, key in (("layers", "num_hidden_layers"), ("hidden size", "hidden_size"), ("vocabulary", "vocab_size")):
        if key in shape:
            yield f"- {words}: {shape[key]:,}"
    if "tokens_seen" in trained.counts:
        yield f"- tokens seen: {trained.counts['tokens_seen']:,}"
    yield from ("", "```python", f'model = mlflow.pyfunc.load_model("models:/{model_id}")')
    yield from (f"model.predict({_EXAMPLES[form]})", "```", "", "## Made from", "")
    for edge in lineage.parents(manifest.digest):
        parent = lineage.nodes.get(edge.parent)
        yield f"- {edge.role}: {parent.step if parent else 'gone from the store'} `{edge.parent[:12]}`"
    yield from ("", "## Trained on", "", *_sources(upstream(store, trained.digest)))
    yield from ("", "## Gate", "", *_gate(store, manifest), "", "## Limits", "", *_limits(form, shape))


def _trained(lineage: LineageGraph) -> Manifest:
    """The weights that training made: those that a release was bundled from, or the model itself."""
    manifest = lineage.nodes[lineage.root]
    inside = [parent for parent in _parents(lineage, lineage.root) if parent.kind == "weights"]
    return inside[0] if manifest.kind == "release" and inside else manifest


def _sources(learned: LineageGraph) -> Iterator[str]:
    """Of the weights alone: a release also descends from the questions that it was measured with."""
    for source in learned.sources:
        yield f"- {source.name}: {source.licence or 'no licence recorded'} ({source.origin or 'no origin recorded'})"
    if not learned.sources:
        yield "- no source is recorded"
    if learned.missing:
        yield f"- {len(learned.missing)} ancestors are gone from the store: there may have been more"


def _gate(store: ArtifactStore, manifest: Manifest) -> Iterator[str]:
    if manifest.kind != "release":
        yield "None has judged these weights; a gate judges what is released."
        return
    pinned = _json(store, manifest, "release.json")
    yield f"Passed ({pinned['verdict']['checks']} checks); `verdict.md` of the release tells each. Measured:"
    yield ""
    for suite, measured in sorted(pinned["evaluation"]["suites"].items()):
        low, high = (f"{measured[end]:.4g}" if measured[end] is not None else "–" for end in ("ci_low", "ci_high"))
        yield f"- {suite}: {measured['metric']} {measured['value']:.4g} [{low}, {high}], n = {measured['n']}"


def _limits(form: Form, shape: dict[str, JSON]) -> Iterator[str]:
    if "max_position_embeddings" in shape:
        yield f"- It reads at most {shape['max_position_embeddings']:,} tokens, prompt and answer together."
    if form == "reward":
        yield "- Scores rank answers to one conversation under one system message; across conversations they say nothing."
    else:
        yield "- It knows what its sources say, and nothing checks that what it writes is true or harmless."
