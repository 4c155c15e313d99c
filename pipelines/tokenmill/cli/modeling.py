"""Commands about models: `tokenmill model import | export | merge | adapter | inspect | reshard`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tokenmill.cli.inspecting import existing_store, show
from tokenmill.cli.main import AsJson, StoreUri, app, use_store
from tokenmill.errors import InputError

if TYPE_CHECKING:
    from tokenmill.model.exchange import Inspection

model_app = typer.Typer(help="Bring a model in, write one out, look into one.", no_args_is_help=True)
app.add_typer(model_app, name="model")

Source = Annotated[
    str, typer.Argument(help="folder with config.json; or weights or a release: digest or prefix, models:/name@alias")
]
Target = Annotated[Path, typer.Argument(help="a new folder")]
Words = Annotated[
    str | None, typer.Option("--tokenizer", help="folder or manifest [beside the weights, else from their lineage]")
]
ShardSize = Annotated[str, typer.Option(help="most bytes of one weights file, as 5GB or 300MB")]
MODELS = ("weights", "release")
_REFERENCE = re.compile(r"[0-9a-f]{4,64}$|models:/|.*/manifests/")


@contextmanager
def laid_out(
    source: str, store: str | None, tokenizer: str | None = None, *, required: bool = False
) -> Iterator[tuple[Path, Path | None]]:
    """The folders of a model and of its tokenizer, as files for the time being where they are a store's.

    The tokenizer is None where none is known, unless it is `required`: then that is an error.
    """
    from tokenmill.model.exchange import manifest_of, tokenizer_of
    from tokenmill.model.tokenizer import has_tokenizer
    from tokenmill.steps.files import materialise, scratch

    if not Path(source).is_dir() and not _REFERENCE.match(source):
        raise InputError(f"{source!r} is neither a folder nor an artifact's digest, manifest URI or models:/name@alias")
    with scratch() as work:
        folder, words = Path(source), None
        opened = None if folder.is_dir() else existing_store(store)
        if opened:
            model = manifest_of(opened, source, MODELS)
            folder = materialise(opened, model, work / "model")
        if tokenizer and Path(tokenizer).is_dir():
            words = Path(tokenizer)
        elif tokenizer:
            shop = opened or existing_store(store)
            words = materialise(shop, manifest_of(shop, tokenizer, ("tokenizer",)), work / "tokenizer")
        elif has_tokenizer(folder):
            words = folder
        elif opened:
            try:
                words = materialise(opened, tokenizer_of(opened, model), work / "tokenizer")
            except InputError:
                if required:
                    raise
        if required and words is None:
            raise InputError(f"there is no tokenizer in {source}: give --tokenizer")
        yield folder, words


@model_app.command(name="import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="folder in InternLM2 or LLaMA layout, with tokenizer.json or tokenizer.model")
    ],
    licence: Annotated[
        str, typer.Option(help="of the weights, best as an SPDX identifier, or `unknown`; it follows them to the gate")
    ],
    name: Annotated[str, typer.Option(help="of the source in lineage and model cards [the folder's]")] = "",
    origin: Annotated[str, typer.Option(help="where they are from, for people [the name]")] = "",
    tokens_seen: Annotated[int, typer.Option(min=0, help="tokens it was trained on, where a training goes on")] = 0,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Bring a pretrained model into the store, as the weights and the tokenizer that every phase takes."""
    from tokenmill.model.exchange import import_model
    from tokenmill.store import open_store

    if not source.is_dir():
        raise InputError(f"there is no folder {source}")
    made = import_model(
        open_store(use_store(store)), source, licence=licence, name=name, origin=origin, tokens_seen=tokens_seen
    )
    manifests = {"sources": made.sources, "tokenizer": made.tokenizer, "weights": made.weights}
    if as_json:
        show({role: manifest.digest for role, manifest in manifests.items()} | {"new_tokens": made.new_tokens})
        return
    for role, manifest in manifests.items():
        typer.echo(f"{role}: {manifest.digest}  {dict(manifest.counts)}")
    if made.new_tokens:
        typer.echo(f"{made.new_tokens} token ids are new: their embeddings are the mean of the others until trained")
    typer.echo(f"hand on   --input base={made.weights.digest[:12]} --input tokenizer={made.tokenizer.digest[:12]}")


@model_app.command()
def export(
    source: Source,
    target: Target,
    layout: Annotated[
        Literal["internlm2", "llama"], typer.Option(help="llama is what transformers and vLLM load without our code")
    ] = "llama",
    max_shard_size: ShardSize = "5GB",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="precision of the weights [their own]")
    ] = None,
    tokenizer: Words = None,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Write a model as a folder that transformers and vLLM load: weights, configs, tokenizer, chat template."""
    from tokenmill.model.exchange import DTYPES, export_model, parse_bytes

    limit = parse_bytes(max_shard_size)
    with laid_out(source, store, tokenizer, required=True) as (weights, words):
        export_model(
            weights,
            words or weights,
            target,
            form=layout,
            dtype=DTYPES[dtype] if dtype else None,
            max_shard_bytes=limit,
        )
    files = sorted(path.name for path in target.iterdir())
    if as_json:
        show({"folder": str(target), "layout": layout, "files": files})
        return
    typer.echo(f"{target}: {layout}, {', '.join(files)}")


@model_app.command()
def merge(
    base: Source,
    adapter: Annotated[
        Path, typer.Argument(help="folder with adapter_config.json and adapter_model.safetensors (PEFT's)")
    ],
    target: Target,
    layout: Annotated[
        Literal["internlm2", "llama"], typer.Option(help="llama is what transformers and vLLM load without our code")
    ] = "llama",
    tokenizer: Words = None,
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Add a LoRA adapter to the model that it was trained on, and write the sum as a model folder."""
    from tokenmill.model.exchange import export_model, require_empty
    from tokenmill.model.lora import merge_adapter
    from tokenmill.steps.files import scratch

    require_empty(target)
    with laid_out(base, store, tokenizer, required=True) as (weights, words), scratch() as work:
        changed = merge_adapter(weights, adapter, work / "merged")
        export_model(work / "merged", words or weights, target, form=layout)
    if as_json:
        show({"folder": str(target), "layout": layout, "changed": changed})
        return
    typer.echo(f"{target}: {layout}, {changed} matrices changed")


@model_app.command()
def adapter(source: Source, target: Target, store: StoreUri = None, as_json: AsJson = False) -> None:
    """Write the LoRA adapter that a training left beside its weights: PEFT's files, for PEFT and vLLM's --lora-modules."""
    import shutil

    from tokenmill.model.exchange import require_empty
    from tokenmill.model.lora import ADAPTER

    require_empty(target)
    with laid_out(source, store) as (folder, _):
        if not (folder / ADAPTER).is_dir():
            raise InputError(f"{source} has no adapter: the whole model was trained (lora.rank=0)")
        shutil.copytree(folder / ADAPTER, target, dirs_exist_ok=True)
    files = sorted(path.name for path in target.iterdir())
    if as_json:
        show({"folder": str(target), "files": files})
        return
    typer.echo(f"{target}: {', '.join(files)}")


@model_app.command()
def inspect(source: Source, tokenizer: Words = None, store: StoreUri = None, as_json: AsJson = False) -> None:
    """Layout, dimensions, parameters, tensors, vocabulary and special tokens of a model; no tensor is read."""
    from tokenmill.model.exchange import inspect_model

    with laid_out(source, store, tokenizer) as (folder, words):
        found = inspect_model(folder, words)
    if as_json:
        show(found.to_json())
    else:
        _tell(found)


def _tell(found: "Inspection") -> None:
    d = found.dimensions
    lines = {
        "layout": f"{found.layout} ({found.architecture})"
        + (f", {found.tensor_parallel} tensor-parallel ranks" if found.tensor_parallel > 1 else ""),
        "parameters": f"{found.parameters:,}",
        "weights": f"{found.tensors:,} tensors"
        + (" a rank" if found.tensor_parallel > 1 else "")
        + f", {found.bytes:,} bytes, "
        + ", ".join(f"{dtype} {n:,}" for dtype, n in found.dtypes.items()),
        "layers": f"{d['num_hidden_layers']} of {d['hidden_size']:,}, FFN {d['intermediate_size']:,}",
        "heads": f"{d['num_attention_heads']} of {d['head_dim']} on {d['num_key_value_heads']} KV heads",
        "context": f"{d['max_position_embeddings']:,}, RoPE base {d['rope_theta']:,.0f}",
        "vocabulary": f"{d['vocab_size']:,} rows, "
        + ("no tokenizer" if found.vocabulary is None else f"tokenizer of {found.vocabulary:,} ids"),
    }
    if found.special_tokens:
        lines["special"] = ", ".join(f"{name} {id}" for name, id in found.special_tokens.items())
    if found.missing_tokens:
        lines["note"] = found.missing_tokens
    for title, said in lines.items():
        typer.echo(f"{title:<12}{said}")


@model_app.command()
def reshard(
    source: Source,
    target: Target,
    tp: Annotated[int, typer.Option("--tp", help="tensor-parallel degree; 1 writes a whole model")],
    max_shard_size: ShardSize = "5GB",
    store: StoreUri = None,
    as_json: AsJson = False,
) -> None:
    """Cut a model into a folder for each tensor-parallel rank, or put such folders together, in InternLM2 layout."""
    from tokenmill.model.exchange import parse_bytes, require_empty
    from tokenmill.model.folder import reshard as cut

    limit = parse_bytes(max_shard_size)
    require_empty(target)
    with laid_out(source, store) as (folder, _):
        cut(folder, target, tp, max_shard_bytes=limit)
    made = sorted(path.name for path in target.iterdir())
    if as_json:
        show({"folder": str(target), "tp": tp, "files": made})
        return
    typer.echo(f"{target}: {', '.join(made)}")
