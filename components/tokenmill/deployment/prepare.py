"""The services that everything else needs: is the bucket there and can it what leases need, does the registry answer?

python -m tokenmill.deployment.prepare             makes a bucket that is missing; the chart `tokenmill` runs it after install
python -m tokenmill.deployment.prepare --check     makes nothing: `helm test`

Store and registry come from the environment, as for every step.
"""

import os
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from tokenmill.errors import ConfigError, StoreError, UserError, told_in_one_line
from tokenmill.logs import Log
from tokenmill.store import open_store
from tokenmill.store.backend import split_uri

T = TypeVar("T")
log = Log({"program": "prepare"})


def prepare(uri: str, *, make_bucket: bool, patience_s: float) -> list[str]:
    """Wait for the services and say what was found.

    Args:
        uri: of the store.
        make_bucket: create a bucket that is missing.
        patience_s: seconds in which each service must answer; its last refusal is raised after that.
    """
    found = []
    if uri.startswith("s3://"):
        made = _patiently(lambda: _bucket(uri, make_bucket), patience_s)
        found.append(f"bucket   {split_uri(uri).netloc} {'made' if made else 'is there'}")
    _patiently(lambda: open_store(uri).check(), patience_s)
    found.append(f"store    {uri} can what leases need")
    if tracking := os.environ.get("MLFLOW_TRACKING_URI"):
        from tokenmill.tracking.connection import require_answer, without_userinfo

        _patiently(lambda: require_answer(tracking), patience_s)
        found.append(f"mlflow   {without_userinfo(tracking)} answers")
    return found


def _bucket(uri: str, make: bool) -> bool:
    """Whether the bucket had to be made. It is asked for, because some stores make one with the first object."""
    from minio.error import S3Error

    from tokenmill.store.s3 import S3Backend

    backend = S3Backend(split_uri(uri).netloc)
    with backend._explained(""):
        client = backend._connect()
        if client.bucket_exists(backend.bucket):
            return False
        if not make:
            raise StoreError(
                f"s3://{backend.bucket} at {backend.endpoint.geturl()}: there is no such bucket; create it"
            )
        try:
            client.make_bucket(backend.bucket)
        except S3Error as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):  # somebody was first
                raise
    return True


def _patiently(ask: Callable[[], T], patience_s: float) -> T:
    """Ask again while a service is still starting. A wrong address or name is not asked twice."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except ConfigError:
            raise
        except UserError as refused:
            if time.monotonic() > deadline:
                raise
            log.info("not yet", reason=str(refused))
            time.sleep(2)


def main(
    check: Annotated[bool, typer.Option(help="make nothing")] = False,
    patience: Annotated[float, typer.Option(help="seconds in which each service must answer")] = 60,
) -> None:
    """Make the bucket, and see that store and registry answer."""
    with told_in_one_line():
        uri = os.environ.get("TOKENMILL_STORE", "")
        if not uri:
            raise StoreError("no store: set TOKENMILL_STORE to s3://bucket/prefix")
        typer.echo("\n".join(prepare(uri, make_bucket=not check, patience_s=patience)))


if __name__ == "__main__":
    typer.run(main)
