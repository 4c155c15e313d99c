"""A release folder: its contents, pinned by release.json."""

import hashlib
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field, ValidationError

from tokenmill.errors import CorruptError, InputError
from tokenmill.manifest import Frozen, Manifest, canonical, sha256

RELEASE, CARD = "release.json", "README.md"
ATTESTATION, SBOM = "release.intoto.json", "sbom.cdx.json"
BESIDE = (ATTESTATION, SBOM)
"""Files that may lie beside a release, and are what `tokenmill.deployment.attestation` is about: not pinned, but vouching."""


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
    policy: str = Field(description="the gate's limits, as `policy_of` names them")


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
        tensors={n: digest for path in sorted(folder.glob("*.safetensors")) for n, digest in tensor_digests(path)},
    )
    text = orjson.dumps(release.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
    (folder / RELEASE).write_bytes(text)


def parse(data: bytes, where: str) -> dict[str, Any]:
    """What a release.json says.

    Raises:
        CorruptError: it is none.
    """
    try:
        return Release.model_validate(orjson.loads(data)).model_dump(mode="json")
    except (ValueError, ValidationError):
        raise CorruptError(f"{where}/{RELEASE} is damaged: fetch the release again") from None


def require_passed(judged: Mapping[str, Any], where: str) -> None:
    """Raise InputError where a verdict.json did not pass; `where` is what its verdict.md lies in."""
    if not judged["passed"]:
        failed = [check["name"] for check in judged["checks"] if not check["passed"]]
        raise InputError(
            f"the gate did not pass {judged['label']}: {', '.join(failed[:5])}. Nothing is released; verdict.md of {where} "
            "says what was wanted"
        )


def policy_of(verdict: Manifest) -> str:
    """Digest of the limits that a verdict was made by: sha256 of the gate's identity config, canonical.

    Raises:
        InputError: it is no verdict, or no gate made it.
    """
    if (verdict.kind, verdict.step) != ("verdict", "evaluation.gate"):
        raise InputError(
            f"{verdict.digest[:12]} is {verdict.kind} of {verdict.step}, no verdict of evaluation.gate: it lets nothing pass"
        )
    return sha256(canonical(verdict.config))


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


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (RELEASE, *BESIDE):
            yield name, path
