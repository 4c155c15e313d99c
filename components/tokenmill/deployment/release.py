"""A release folder: its pinned contents (release.json), its card, and how a server verifies it before it serves.

python -m tokenmill.deployment.release FOLDER      verify a folder: exit code 0, or 2 and what differs
"""

import hashlib
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field

from tokenmill.errors import CorruptError, InputError
from tokenmill.manifest import Frozen, canonical

RELEASE, CARD = "release.json", "README.md"


class PinnedFile(Frozen):
    sha256: str
    size: int


class Measured(Frozen):
    """The evaluation that the gate judged."""

    content: str
    label: str
    suites: dict[str, Any] = Field(description="suite → metric, value, ci_low, ci_high, n")


class Judged(Frozen):
    """The gate's verdict."""

    content: str
    passed: Literal[True]
    checks: int


class Release(Frozen):
    """release.json: what a release is made of and what vouches for it. Serving refuses what differs."""

    name: str
    weights: str = Field(description="content of the weights that were trained")
    tokenizer: str = Field(description="its content")
    evaluation: Measured
    verdict: Judged
    lineage: dict[str, Any] | None = Field(description="training sets and raw sources, with licences")
    rope_theta: float
    max_position_embeddings: int
    files: dict[str, PinnedFile] = Field(description="every other file of the release")
    tensors: dict[str, str] = Field(description="tensor → sha256 over name, dtype, shape and bytes")


def pin(folder: Path, facts: dict[str, Any]) -> None:
    """Write release.json: the sha256 of every other file, the digest of every tensor, and `facts`."""
    release = Release(
        **facts,
        files={name: PinnedFile(sha256=sha256_of(path), size=path.stat().st_size) for name, path in _files(folder)},
        tensors=dict(tensor_digests(folder / "model.safetensors")),
    )
    text = orjson.dumps(release.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
    (folder / RELEASE).write_bytes(text)


def verify(folder: Path, expected: str | None = None) -> dict[str, Any]:
    """The pinned facts of a release whose files are exactly those it pins; names the first ones that are not.

    Args:
        folder: as fetched; nothing else may lie in it.
        expected: sha256 of release.json itself, where the caller knows it from the registry.
    """
    pinned = read(folder)
    if expected and sha256_of(folder / RELEASE) != expected:
        raise CorruptError(f"{folder / RELEASE} is not the one that was registered: fetch the release again")
    here = dict(_files(folder))
    wrong = [f"{name} is missing" for name in sorted(pinned["files"].keys() - here.keys())]
    wrong += [f"{name} is not part of the release" for name in sorted(here.keys() - pinned["files"].keys())]
    wrong += [
        f"{name} has sha256 {found[:12]}…, pinned is {pinned['files'][name]['sha256'][:12]}…"
        for name in sorted(here.keys() & pinned["files"].keys())
        if (found := sha256_of(here[name])) != pinned["files"][name]["sha256"]
    ]
    if wrong:
        raise CorruptError(f"{folder} is not the release that it claims to be: {'; '.join(wrong[:3])}. Fetch it again")
    return pinned


def read(folder: Path) -> dict[str, Any]:
    """What a release folder says of itself, unverified."""
    path = folder / RELEASE
    if not path.is_file():
        raise InputError(f"{folder} is no release: it has no {RELEASE}")
    return dict(orjson.loads(path.read_bytes()))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_digests(path: Path) -> Iterator[tuple[str, str]]:
    """Name and digest (over name, dtype, shape and bytes) of every tensor: equal in any file that holds it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begin = 8 + int.from_bytes(data[:8], "little")
        header = orjson.loads(data[8:begin])
        header.pop("__metadata__", None)
        for name, tensor in sorted(header.items()):
            digest = hashlib.sha256(canonical([name, tensor["dtype"], tensor["shape"]]))
            first, last = tensor["data_offsets"]
            digest.update(data[begin + first : begin + last])
            yield name, digest.hexdigest()


def card(facts: dict[str, Any], context: int, parameters: int) -> str:
    """The model card: what it is, how to serve it, what was measured, what it was trained on."""
    lines = [
        f"# {facts['name']}",
        "",
        f"{parameters:,} parameters, context {context:,} tokens. InternLM2 in LLaMA's layout: vLLM serves it and",
        "transformers reads it without `trust_remote_code`.",
        "",
        "```",
        "python -m tokenmill.deployment.release .        # is it what was released?",
        "vllm serve . --dtype float32",
        "```",
        "",
        "## Measured",
        "",
        "| suite | metric | value | 95% interval | n |",
        "|---|---|---|---|---|",
    ]
    for name, suite in sorted(facts["evaluation"]["suites"].items()):
        interval = f"{_number(suite['ci_low'])} – {_number(suite['ci_high'])}"
        lines.append(f"| {name} | {suite['metric']} | {_number(suite['value'])} | {interval} | {suite['n']} |")
    lines += ["", f"The gate passed it: {facts['verdict']['checks']} checks, see [verdict.md](verdict.md).", ""]
    if facts["lineage"]:
        lines += ["## Trained on", "", "| source | licence | origin |", "|---|---|---|"]
        sources = {(s["name"], s["licence"], s["origin"]) for s in facts["lineage"]["sources"]}
        lines += [f"| {' | '.join(source)} |" for source in sorted(sources)]
        lines += ["", "| training set | kind | digest |", "|---|---|---|"]
        lines += [f"| {s['step']} | {s['kind']} | `{s['digest'][:12]}` |" for s in facts["lineage"]["sets"]]
    return "\n".join(lines).rstrip() + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != RELEASE:
            yield name, path


if __name__ == "__main__":
    try:
        found = verify(Path(sys.argv[1]))
    except (CorruptError, InputError) as refused:
        sys.stderr.write(f"tokenmill: {refused}\n")
        sys.exit(2)
    sys.stdout.write(f"{found['name']}: {len(found['files'])} files, {len(found['tensors'])} tensors as released\n")
