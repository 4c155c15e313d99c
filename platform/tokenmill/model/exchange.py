"""Models in and out: a Hugging Face folder becomes artifacts that every phase takes, an artifact becomes such a folder."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tokenmill.errors import ConfigError, InputError
from tokenmill.lineage import resolve
from tokenmill.manifest import Draft, Manifest
from tokenmill.model.folder import (
    RM_PROMPTS,
    config_values,
    copy_checkpoint,
    export_llama,
    read_checkpoint,
    read_config,
    tensor_parallel_folders,
    write_checkpoint,
    write_generation_config,
)
from tokenmill.model.layout import fit_vocabulary
from tokenmill.model.tensor_parallel import is_split
from tokenmill.model.tokenizer import Tokenizer, has_tokenizer, read_raw
from tokenmill.model.weights import MAX_SHARD_BYTES, read_shapes
from tokenmill.records import content_digest
from tokenmill.steps.files import scratch, store_file
from tokenmill.steps.publish import publish
from tokenmill.store import ArtifactStore

STEP, VERSION = "model.import", 1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Layout = Literal["internlm2", "llama"]


@dataclass(frozen=True)
class Imported:
    """What an import published."""

    sources: Manifest
    """The root of the lineage: name, licence and origin of the files, and their digests."""
    tokenizer: Manifest
    weights: Manifest
    new_tokens: int
    """Ids that the tokenizer did not have: spares and what it lacked of the special tokens."""


def import_model(
    store: ArtifactStore,
    folder: Path,
    *,
    licence: str,
    name: str = "",
    origin: str = "",
    tokens_seen: int = 0,
) -> Imported:
    """Publish a model folder, in InternLM2's or LLaMA's layout with a tokenizer, as `weights` and `tokenizer`.

    The tokenizer gets the special tokens that it lacks, the model a row for each new id (see `Tokenizer.adopt` and
    `fit_vocabulary`), and our chat template takes the place of any other. Equal files under equal names,
    licences and origins give equal digests.

    Args:
        licence: of the weights, best as an SPDX identifier; `unknown` is one, which a gate refuses by default.
        name: of the source in lineage and model cards; by default the folder's.
        origin: where it is from, for people; by default the name.
        tokens_seen: tokens that it was trained on: where the x axis of a further training starts.

    Raises:
        InputError: no licence is stated; there is no model or tokenizer, or they do not belong together.
        ConfigError: the model is not one that InternLM2 can hold.
        CorruptError: a file is damaged.
    """
    if not licence.strip():
        raise InputError(f"{folder} has no licence: state it, or `unknown`; it follows the weights to the release")
    store.check()
    config, state = read_checkpoint(folder)
    words, known = Tokenizer.adopt(folder, config.vocab_size)
    config, state = fit_vocabulary(config, state, words.vocab_size, known)
    config = replace(config, bos_token_id=words.bos_id, eos_token_id=words.eos_id, pad_token_id=words.pad_id)
    architecture = "InternLM2ForCausalLM" if "output.weight" in state else "InternLM2ForRewardModel"
    named = name or folder.resolve().name
    files = {path.relative_to(folder).as_posix(): path for path in _model_files(folder)}
    digests = {file: content_digest(path) for file, path in files.items()}
    told = {"licence": licence, "origin": origin or named, "type": "model", "files": digests}
    counts = {"files": len(files), "bytes": sum(path.stat().st_size for path in files.values())}
    sources = publish(
        store, Draft(kind="sources", shards=(), counts=counts, facts={"sources": {named: told}}), STEP, VERSION
    )
    with scratch() as work:
        words.save(work / "tokenizer")
        write_checkpoint(work / "weights", config, state, architecture=architecture)
        draft = _stored(store, "tokenizer", work / "tokenizer", {"vocabulary": words.vocab_size})
        tokenizer = publish(store, draft, STEP, VERSION, source=sources)
        seen = {"tokens_seen": tokens_seen, "parameters": sum(tensor.numel() for tensor in state.values())}
        draft = _stored(store, "weights", work / "weights", seen)
        weights = publish(store, draft, STEP, VERSION, source=sources, tokenizer=tokenizer)
    return Imported(sources, tokenizer, weights, words.vocab_size - known)


def export_model(
    weights: Path,
    tokenizer: Path,
    target: Path,
    *,
    form: Layout = "llama",
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a folder that transformers and vLLM load: config, weights, generation config, tokenizer, chat template; of a
    reward model of ours also the prompts that it is asked under.

    Args:
        weights: a model folder, e.g. a weights artifact laid out.
        tokenizer: a folder with the tokenizer that it was trained with.
        target: a new or empty folder.

    Raises:
        InputError: `target` holds something, or tokenizer and model do not belong together.
    """
    require_empty(target)
    words, config = Tokenizer.load(tokenizer), read_config(weights)
    if words.vocab_size != config.vocab_size:
        raise InputError(
            f"the model has {config.vocab_size} token ids, the tokenizer {words.vocab_size}: "
            "give the tokenizer that it was trained with"
        )
    if form == "llama":
        export_llama(weights, target, stop_ids=words.stop_ids, dtype=dtype, max_shard_bytes=max_shard_bytes)
    else:
        copy_checkpoint(weights, target, dtype=dtype, max_shard_bytes=max_shard_bytes)
        write_generation_config(target, config, words.stop_ids)
    words.save(target)
    if (prompts := weights / RM_PROMPTS).exists():
        shutil.copyfile(prompts, target / RM_PROMPTS)


@dataclass(frozen=True)
class Inspection:
    """What a model folder holds, without a tensor being read."""

    layout: str
    """internlm2 or llama."""
    architecture: str
    tensor_parallel: int
    dimensions: dict[str, Any]
    """The config as an InternLM2's, by the keys of its config.json."""
    parameters: int
    """Elements of all tensors; of a tied output none, of a tensor-parallel checkpoint those of the whole model."""
    dtypes: dict[str, int]
    """safetensors' dtype → tensors."""
    tensors: int
    bytes: int
    """Of the weights files."""
    vocabulary: int | None
    """Ids of the tokenizer beside the weights; None where there is none."""
    special_tokens: dict[str, int]
    missing_tokens: str
    """Why the tokenizer cannot be used as it is; empty where it can."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect_model(folder: Path, tokenizer: Path | None = None) -> Inspection:
    """Look into a model folder in either layout, whole or tensor-parallel, and its tokenizer.

    Args:
        tokenizer: folder of the tokenizer, by default `folder`.

    Raises:
        InputError, ConfigError, CorruptError: as `read_checkpoint`.
    """
    config, values = read_config(folder), config_values(folder)
    ranks = tensor_parallel_folders(folder)
    shapes = [read_shapes(rank) for rank in ranks or [folder]]
    first = shapes[0]
    elements = sum(
        math.prod(shape) * (len(shapes) if ranks and is_split(name) else 1) for name, (shape, _) in first.items()
    )
    found = [path for pattern in ("*.safetensors", "tp-*-of-*/*.safetensors") for path in folder.glob(pattern)]
    words = tokenizer or folder
    vocabulary, special, fault = _tokens(words) if has_tokenizer(words) else (None, {}, "")
    return Inspection(
        layout=str(values["model_type"]),
        architecture=(values.get("architectures") or ["not stated"])[0],
        tensor_parallel=len(shapes),
        dimensions=asdict(config),
        parameters=elements,
        dtypes=dict(Counter(dtype for _, dtype in first.values())),
        tensors=len(first),
        bytes=sum(path.stat().st_size for path in found),
        vocabulary=vocabulary,
        special_tokens=special,
        missing_tokens=fault,
    )


def _tokens(folder: Path) -> tuple[int, dict[str, int], str]:
    """Size, special tokens, and what a tokenizer lacks."""
    try:
        words = Tokenizer.load(folder)
    except InputError as lacking:
        raw = read_raw(folder)
        added = {t.content: id for id, t in sorted(raw.get_added_tokens_decoder().items()) if t.special}
        return raw.get_vocab_size(), added, str(lacking)
    return words.vocab_size, words.special, ""


def model_of(store: ArtifactStore, weights: str = "", tokenizer: str = "") -> dict[str, Manifest]:
    """`weights` and `tokenizer` of the model that a person means: both of a release; else, where none is named, the tokenizer
    that the weights were made with. Without weights the tokenizer alone.

    Raises:
        InputError: neither is given, or nothing is called that.
    """
    named = {"weights": weights, "tokenizer": tokenizer}
    given = {role: store.get_manifest(resolve(store, name)) for role, name in named.items() if name}
    if not given:
        raise InputError("give weights; of a served model whose weights are not in the store, its tokenizer")
    if "tokenizer" not in given:
        given["tokenizer"] = tokenizer_of(store, given["weights"])
    if weights and given["weights"].kind == "release":
        given["weights"] = store.get_manifest(given["weights"].parents["weights"][0])
    return given


def tokenizer_of(store: ArtifactStore, model: Manifest) -> Manifest:
    """The tokenizer that a model was trained with: the nearest one among what it was made from.

    Raises:
        InputError: none is known, or there are two of them equally near.
    """
    ahead, seen = [model], {model.digest}
    while ahead:
        parents = {d for manifest in ahead for d in manifest.parent_digests} - seen
        seen |= parents
        ahead = [store.get_manifest(d) for d in sorted(parents) if store.has_manifest(d)]
        found = {manifest.content: manifest for manifest in ahead if manifest.kind == "tokenizer"}
        if len(found) > 1:
            raise InputError(
                f"{model.kind} {model.digest[:12]} was made with {len(found)} tokenizers: give --tokenizer"
            )
        if found:
            return next(iter(found.values()))
    raise InputError(f"no tokenizer is known of {model.kind} {model.digest[:12]}: give --tokenizer")


def manifest_of(store: ArtifactStore, reference: str, kinds: tuple[str, ...]) -> Manifest:
    """The manifest that a reference names, if it is of one of the kinds."""
    manifest = store.get_manifest(resolve(store, reference))
    if manifest.kind not in kinds:
        raise InputError(f"{reference} is {manifest.kind}: give {' or '.join(kinds)}")
    return manifest


def require_empty(target: Path) -> None:
    """Refuse a folder that holds something: files of two models must not mix."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there and not an empty folder: name a new one")


def parse_bytes(size: str) -> int:
    """Bytes of `5GB`, `300MB`, `20KB` or a bare number (powers of 1000, as Hugging Face counts)."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    number = size.strip().upper().rstrip("KMGB")
    unit = size.strip().upper()[len(number) :]
    try:
        value = int(float(number) * units[unit])
    except (ValueError, KeyError):
        value = 0
    if value < 1:
        raise ConfigError(f"{size!r} is no size: write it as 5GB, 300MB or 20KB")
    return value


def _model_files(folder: Path) -> list[Path]:
    """What of a folder makes the model: not its hidden files, nor what people left there."""
    patterns = ("*.json", "*.jinja", "*.model", "*.safetensors", "tp-*-of-*/*")
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _stored(store: ArtifactStore, kind: str, folder: Path, counts: Mapping[str, int]) -> Draft:
    shards = [store_file(store, path, path.name) for path in sorted(folder.iterdir())]
    return Draft(kind=kind, shards=tuple(shards), counts=dict(counts))
