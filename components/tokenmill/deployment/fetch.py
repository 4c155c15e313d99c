"""What runs before an engine: the released model's files, fetched once a node and verified at every start.

python -m tokenmill.deployment.fetch URI --digest SHA256 --into FOLDER     prints the folder that an engine may serve
python -m tokenmill.deployment.fetch URI --digest SHA256                   verifies a mounted folder where it lies

URI                          digest                          files are listed by
models:/name@alias, …/3      the version's manifest          the manifest in TOKENMILL_STORE
store:                       the manifest                    the same, without asking the registry
s3://bucket/folder           sha256 of its release.json      release.json
file:///folder               sha256 of its release.json      release.json

The digest decides; a registry that is away, or whose alias has moved on, costs a warning and never a restart. Pods that
share FOLDER wait for the one that fetches; what it had fetched when it was killed is not fetched again.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import orjson
import typer

from tokenmill.deployment.release import RELEASE, sha256_of
from tokenmill.errors import CorruptError, InputError, StoreError, UserError, told_in_one_line
from tokenmill.logs import Log
from tokenmill.manifest import Manifest, Shard
from tokenmill.records import content_digest
from tokenmill.store import ArtifactStore, open_store
from tokenmill.store.backend import Backend, NotFoundError, check_key, open_backend
from tokenmill.store.layout import blob_key
from tokenmill.store.local import LocalBackend

CHUNK = 8 << 20
SIDE_BY_SIDE = 4
UNPINNED = "unpinned"
log = Log({"program": "fetch"})


@dataclass(frozen=True)
class Wanted:
    """One file: its name in the release, where it lies, and what it must be."""

    name: str
    key: str
    sha256: str
    size: int
    content: str = ""
    """Of tensors whose bytes nothing pins: what they are, which the digest covers."""


@dataclass(frozen=True)
class Listing:
    """What a digest names: every file of the release, and where to fetch them."""

    digest: str
    backend: Backend
    files: tuple[Wanted, ...]


def listing(uri: str, digest: str) -> Listing:
    """The files that `digest` names.

    Args:
        uri: see the module.
        digest: 64 hexadecimal digits; empty takes whatever is there, which only a trial should.

    Raises:
        InputError: `uri` names nothing that can be fetched.
        CorruptError: what lies there is not what `digest` names.
    """
    if uri.startswith("models:/") or uri == "store:":
        return _of_manifest(_registered(uri, digest) if uri != "store:" else digest)
    if uri.startswith(("s3://", "file:///")):
        return _of_folder(uri, digest)
    raise InputError(f"model URI {uri!r} is none of models:/name@alias, models:/name/3, store:, s3://…, file:///…")


def _registered(uri: str, digest: str) -> str:
    """The digest that the registry names; a pinned one stands, whatever the registry says or does not say."""
    from tokenmill.tracking import Registry

    try:
        found = Registry(open_store()).resolve_model(uri)
    except UserError as unknown:
        if not digest:
            raise
        log.warning("the registry did not confirm the digest", uri=uri, digest=digest, reason=str(unknown))
        return digest
    if digest and found != digest:
        if "@" not in uri:  # a version never changes, so one of the two was written wrongly
            raise CorruptError(f"{uri} is {found}, the values pin {digest}: correct the version or the digest")
        log.warning("the alias has moved on; the pinned digest is served", uri=uri, digest=digest, alias=found)
    return digest or found


def _of_manifest(digest: str) -> Listing:
    if not digest:
        raise InputError("store: names a release by its digest: give one")
    store = open_store()
    manifest = store.get_manifest(digest)
    pinned = _pinned(store, manifest)
    return Listing(digest, store.backend, tuple(_wanted(shard, pinned) for shard in manifest.shards))


def _pinned(store: ArtifactStore, manifest: Manifest) -> dict[str, str]:
    """Name → sha256 by the manifest's own release.json; empty for what is no release, such as an adapter."""
    index = next((shard for shard in manifest.shards if shard.name == RELEASE), None)
    if index is None:
        return {}
    data = store.backend.get(blob_key(index.blob))
    if hashlib.sha256(data).hexdigest() != index.content:
        raise CorruptError(f"{RELEASE} of {manifest.digest} is not the one that the digest covers: restore that object")
    return {name: file["sha256"] for name, file in orjson.loads(data)["files"].items()}


def _wanted(shard: Shard, pinned: dict[str, str]) -> Wanted:
    """A manifest's digest covers what a file is (`content`), not how it is stored (`blob`): only the first is trusted."""
    key = blob_key(shard.blob)
    if not shard.name.endswith((".safetensors", ".zst")):  # then its content is its bytes
        return Wanted(shard.name, key, shard.content, shard.size)
    if shard.name in pinned:
        return Wanted(shard.name, key, pinned[shard.name], shard.size)
    return Wanted(shard.name, key, shard.blob, shard.size, shard.content)


def _of_folder(uri: str, digest: str) -> Listing:
    backend = open_backend(uri)
    try:
        index = backend.get(RELEASE)
    except NotFoundError:
        raise InputError(
            f"{uri} is no release: it has no {RELEASE} (python -m tokenmill.deployment.publish makes one)"
        ) from None
    found = hashlib.sha256(index).hexdigest()
    if digest and found != digest:
        raise CorruptError(f"{uri}/{RELEASE} is {found}, the values pin {digest}: pin what is there, or restore it")
    pinned = orjson.loads(index)["files"]
    files = [Wanted(name, check_key(name), file["sha256"], file["size"]) for name, file in sorted(pinned.items())]
    return Listing(found, backend, (*files, Wanted(RELEASE, RELEASE, found, len(index))))


def fetch(uri: str, digest: str, into: Path) -> Path:
    """A folder under `into` that holds exactly the files which `digest` names, each verified now.

    Raises:
        CorruptError: bytes that are not what they should be; nothing of them stays.
        StoreError: no space, or a store that does not answer.
    """
    wanted = listing(uri, digest)
    into.mkdir(parents=True, exist_ok=True)
    folder = into / wanted.digest
    with _alone(into / f".{wanted.digest}.lock"):
        if folder.exists():
            wrong = differing(folder, wanted.files)
            if not wrong:
                log.info("the node's copy is whole", folder=str(folder), files=len(wanted.files))
                return folder
            log.warning("the node's copy is damaged and is fetched again", folder=str(folder), wrong=wrong[:3])
            folder.rename(into / f".{wanted.digest}.partial")
        _complete(into / f".{wanted.digest}.partial", wanted)
        (into / f".{wanted.digest}.partial").rename(folder)
    return folder


def differing(folder: Path, files: tuple[Wanted, ...]) -> list[str]:
    """Names of files that are missing, damaged, or not of the release; all bytes are read."""
    known = {file.name for file in files}
    foreign = [
        name
        for path in folder.rglob("*")
        if path.is_file() and (name := path.relative_to(folder).as_posix()) not in known
    ]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        right = list(pool.map(lambda file: _is_right(folder / file.name, file), files))
    return [file.name for file, ok in zip(files, right, strict=True) if not ok] + sorted(foreign)


def _complete(partial: Path, wanted: Listing) -> None:
    """Fetch what is missing or wrong in `partial`, and remove what does not belong there."""
    partial.mkdir(exist_ok=True)
    todo = set(differing(partial, wanted.files))
    for name in todo:
        (partial / name).unlink(missing_ok=True)
    missing = [file for file in wanted.files if file.name in todo]
    needed, free = sum(file.size for file in missing), shutil.disk_usage(partial).free
    if needed > free:
        raise StoreError(f"{partial.parent} has {free / 2**30:.1f} GiB free, the model needs {needed / 2**30:.1f}")
    log.info("fetching", uri=wanted.backend.uri, files=len(missing), bytes=needed)
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for done in pool.map(lambda file: _download(wanted.backend, file, partial / file.name), missing):
            log.info("fetched", file=done.name, bytes=done.size)


def _download(backend: Backend, file: Wanted, target: Path) -> Wanted:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, part = hashlib.sha256(), target.with_name(f".part-{target.name}")
    with backend.open(file.key) as stream, part.open("wb") as out:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != file.sha256 or (file.content and content_digest(part) != file.content):
        part.unlink()
        raise CorruptError(
            f"{backend.uri}/{file.key} has sha256 {digest.hexdigest()[:12]}…, pinned is {file.sha256[:12]}…: the engine "
            "is not started; restore that object"
        )
    part.rename(target)
    return file


def _is_right(path: Path, file: Wanted) -> bool:
    whole = path.is_file() and path.stat().st_size == file.size and sha256_of(path) == file.sha256
    return whole and (not file.content or content_digest(path) == file.content)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the node's lock on one model; the kernel lets go of it when its holder dies."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another pod is fetching this model", lock=str(path))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def verify_in_place(uri: str, digest: str) -> Path:
    """The folder of a mounted release, all of whose bytes are what `digest` names."""
    wanted = listing(uri, digest)
    if not isinstance(wanted.backend, LocalBackend):
        raise InputError(f"{uri} lies elsewhere: say where to keep it (--into)")
    folder = Path(unquote(urlsplit(uri).path))
    if wrong := differing(folder, wanted.files):
        raise CorruptError(f"{folder} is not the release {wanted.digest[:12]}: {', '.join(wrong[:3])} differ")
    return folder


def main(
    uri: Annotated[str, typer.Argument(help="models:/name@alias, models:/name/3, store:, s3://…, file:///…")],
    digest: Annotated[str, typer.Option(help="what must lie there; empty: whatever does")] = "",
    into: Annotated[Path | None, typer.Option(help="the node's folder of models")] = None,
    link: Annotated[Path | None, typer.Option(help="symbolic link to set on the folder, for an unpinned model")] = None,
) -> None:
    """Fetch a released model, or verify a mounted one; print its folder."""
    with told_in_one_line():
        folder = fetch(uri, digest, into) if into else verify_in_place(uri, digest)
        if link:
            fresh = link.with_name(f".{link.name}.{os.getpid()}")
            fresh.symlink_to(folder)
            fresh.replace(link)
            link.with_name(f"{link.name}.digest").write_text(folder.name)
        typer.echo(folder)


if __name__ == "__main__":
    typer.run(main)
