"""Is it what was released? Every byte of a release, held to what its digest and its signature say."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenmill.deployment.attestation import Vouched
from tokenmill.deployment.listing import Wanted, listing
from tokenmill.deployment.release import RELEASE, parse
from tokenmill.errors import CorruptError, InputError
from tokenmill.store.backend import Backend, NotFoundError
from tokenmill.store.local import LocalBackend

CHUNK = 8 << 20


@dataclass(frozen=True)
class Verified:
    """A release whose every byte is as it was released."""

    release: dict[str, Any]
    """release.json"""
    digest: str
    """sha256 of release.json, or the manifest's digest where it lies in a store."""
    vouched: Vouched


def verify(folder: Path, expected: str = "", trusted: Collection[str] = ()) -> Verified:
    """Hold a folder to what it was when it was released.

    Args:
        folder: as fetched; nothing else may lie in it.
        expected: sha256 of release.json itself, where the caller knows it from the registry.
        trusted: ids of public keys, one of which must have signed it; empty: signatures are not asked for.

    Raises:
        InputError: it is no release.
        CorruptError: a byte differs, a file is missing or not of the release, or nobody who is trusted signed it.
    """
    return verify_stored(folder.resolve().as_uri(), expected, trusted)


def verify_stored(uri: str, digest: str = "", trusted: Collection[str] = ()) -> Verified:
    """Hold a release in a folder, bucket, store or registry to what it was, without laying it on a disk; names the first
    files that differ.

    Args:
        uri, digest, trusted: as for `tokenmill.deployment.listing.listing`.

    Raises:
        InputError: there is no release.
        CorruptError: as for `verify`.
    """
    wanted = listing(uri, digest, trusted)
    if RELEASE not in {file.name for file in wanted.files}:
        raise InputError(f"{uri} is no release: it has no {RELEASE}")
    wrong = []
    for file in wanted.files:
        found = _stored_sha256(wanted.backend, file)
        if found != file.sha256:
            differs = f"has sha256 {found[:12]}…, pinned is {file.sha256[:12]}…" if found else "is missing"
            wrong.append(f"{file.name} {differs}")
    known = {file.name for file in wanted.files}
    wrong += [f"{name} is not part of the release" for name in sorted(_all_files(uri, wanted.backend) - known)]
    if wrong:
        raise CorruptError(f"{uri} is not the release that it claims to be: {'; '.join(wrong[:3])}. Fetch it again")
    index = next(file for file in wanted.files if file.name == RELEASE)
    return Verified(parse(wanted.backend.get(index.key), uri), wanted.digest, wanted.vouched)


def _stored_sha256(backend: Backend, file: Wanted) -> str | None:
    digest = hashlib.sha256()
    try:
        with backend.open(file.key) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    except NotFoundError:
        return None
    return digest.hexdigest()


def _all_files(uri: str, backend: Backend) -> set[str]:
    """Every file of a folder or bucket, whatever its name. What a manifest of a store names is all there is of it."""
    if isinstance(backend, LocalBackend) and uri.startswith("file://"):
        return {path.relative_to(backend.root).as_posix() for path in backend.root.rglob("*") if not path.is_dir()}
    return {entry.key for entry in backend.list()} if uri.startswith("s3://") else set()
