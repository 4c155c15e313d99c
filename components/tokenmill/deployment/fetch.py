"""What runs before an engine: the released model's files, fetched once a node and verified at every start.

python -m tokenmill.deployment.fetch URI --digest SHA256 --into FOLDER     prints the folder that an engine may serve
python -m tokenmill.deployment.fetch URI --digest SHA256                   verifies a mounted folder where it lies

`tokenmill.deployment.listing` says what URIs there are. Where TOKENMILL_PUBLIC_KEY holds keys, one of them must have signed
the release. Pods that share FOLDER wait for the one that fetches; what it had fetched when it was killed is not fetched again.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer

from tokenmill.deployment.listing import Listing, Wanted, listing
from tokenmill.deployment.release import sha256_of
from tokenmill.deployment.signing import PUBLIC_KEY, trusted_keys
from tokenmill.errors import CorruptError, InputError, StoreError, told_in_one_line
from tokenmill.logs import Log
from tokenmill.records import content_digest
from tokenmill.store.backend import Backend
from tokenmill.store.local import LocalBackend

CHUNK = 8 << 20
SIDE_BY_SIDE = 4
log = Log({"program": "fetch"})


def fetch(uri: str, digest: str, into: Path, trusted: Collection[str] = ()) -> Path:
    """A folder under `into` that holds exactly the files which `digest` names, each verified now.

    Args:
        trusted: ids of public keys, one of which must have signed; empty: signatures are not asked for.

    Raises:
        CorruptError: bytes that are not what they should be, or that nobody signed; nothing of them stays.
        StoreError: no space, or a store that does not answer.
    """
    wanted = listing(uri, digest, trusted)
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


def verify_in_place(uri: str, digest: str, trusted: Collection[str] = ()) -> Path:
    """The folder of a mounted release, all of whose bytes are what `digest` names."""
    wanted = listing(uri, digest, trusted)
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
    public_key: Annotated[
        str, typer.Option(envvar=PUBLIC_KEY, help="file of public keys, or their PEM; one must have signed")
    ] = "",
) -> None:
    """Fetch a released model, or verify a mounted one; print its folder."""
    with told_in_one_line():
        keys = trusted_keys(public_key)
        folder = fetch(uri, digest, into, keys) if into else verify_in_place(uri, digest, keys)
        if link:
            fresh = link.with_name(f".{link.name}.{os.getpid()}")
            fresh.symlink_to(folder)
            fresh.replace(link)
            link.with_name(f"{link.name}.digest").write_text(folder.name)
        typer.echo(folder)


if __name__ == "__main__":
    typer.run(main)
