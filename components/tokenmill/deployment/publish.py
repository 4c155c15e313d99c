"""A release folder into a bucket, from where a cluster fetches it, and its signature there: for clusters whose store is
not the one it was made in.

python -m tokenmill.deployment.publish FOLDER s3://bucket/folder       prints the digest to pin
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenmill.deployment.attestation import resigned
from tokenmill.deployment.release import ATTESTATION, BESIDE, RELEASE
from tokenmill.deployment.verify import verify
from tokenmill.errors import CorruptError, told_in_one_line
from tokenmill.manifest import sha256
from tokenmill.store.backend import open_backend

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def publish(folder: Path, uri: str) -> str:
    """Verify the release and put its files; release.json comes last, so that whoever finds it finds all of them.

    Returns:
        sha256 of release.json: what the inference chart's `model.digest` is for an s3:// model.

    Raises:
        CorruptError: the folder is not the release that it claims to be.
    """
    found, backend = verify(folder), open_backend(uri)
    beside = [name for name in BESIDE if (folder / name).is_file()]
    for name in (*sorted(found.release["files"]), *beside, RELEASE):
        backend.put(name, folder / name)
    return found.digest


def sign_folder(uri: str, digest: str, key: "Ed25519PrivateKey") -> None:
    """Sign the release in a folder or bucket, beside whoever signed it before.

    Args:
        digest: sha256 of the release.json that the caller verified, which alone is signed.

    Raises:
        CorruptError: another one lies there by now.
    """
    backend = open_backend(uri)
    found = {name: backend.get(name) for name in (RELEASE, *BESIDE) if backend.exists(name)}
    envelope = found.pop(ATTESTATION, None)
    subjects = {name: sha256(data) for name, data in found.items()}
    if subjects.get(RELEASE) != digest:
        raise CorruptError(
            f"{uri}: its {RELEASE} is not the one that was verified, {digest[:12]}: look who writes there"
        )
    backend.put(ATTESTATION, resigned(uri, subjects, envelope, key))


def main(
    folder: Annotated[Path, typer.Argument(help="a release, as `deployment.bundle` makes it")],
    uri: Annotated[str, typer.Argument(help="s3://bucket/folder or file:///folder")],
) -> None:
    """Verify a release, put it there, and print the digest to pin."""
    with told_in_one_line():
        typer.echo(publish(folder, uri))


if __name__ == "__main__":
    typer.run(main)
