"""A release folder into a bucket, from where a cluster fetches it: for clusters whose store is not the one it was made in.

python -m tokenmill.deployment.publish FOLDER s3://bucket/folder       prints the digest to pin
"""

from pathlib import Path
from typing import Annotated

import typer

from tokenmill.deployment.release import RELEASE, sha256_of, verify
from tokenmill.errors import told_in_one_line
from tokenmill.store.backend import open_backend


def publish(folder: Path, uri: str) -> str:
    """Verify the release and put its files; release.json comes last, so that whoever finds it finds all of them.

    Returns:
        sha256 of release.json: what the inference chart's `model.digest` is for an s3:// model.

    Raises:
        CorruptError: the folder is not the release that it claims to be.
    """
    pinned, backend = verify(folder), open_backend(uri)
    for name in sorted(pinned["files"]):
        backend.put(name, folder / name)
    backend.put(RELEASE, folder / RELEASE)
    return sha256_of(folder / RELEASE)


def main(
    folder: Annotated[Path, typer.Argument(help="a release, as `deployment.bundle` makes it")],
    uri: Annotated[str, typer.Argument(help="s3://bucket/folder or file:///folder")],
) -> None:
    """Verify a release, put it there, and print the digest to pin."""
    with told_in_one_line():
        typer.echo(publish(folder, uri))


if __name__ == "__main__":
    typer.run(main)
