"""A connection to MLflow that says in one line what is wrong, and what exists exactly once in it.

mlflow is imported here only, and only when something is delivered or registered.
"""

import contextlib
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from tokenmill.errors import UserError, first_line
from tokenmill.manifest import sha256
from tokenmill.store import ArtifactStore

if TYPE_CHECKING:
    from mlflow import MlflowClient

Result = TypeVar("Result")
MANIFEST_TAG = "tokenmill.manifest"
RUN_KEY_TAG = "tokenmill.run_key"
# MLflow's own default is seven tries of two minutes: a thread beside a training would hang for that long.
_MANNERS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}


class TrackingError(UserError):
    """MLflow cannot be reached, or refuses."""


class Away(TrackingError):
    """MLflow does not answer."""


class Refused(TrackingError):
    """MLflow is there and will never take this: trying again is of no use."""


def tracking_uri(store: ArtifactStore, given: str | None = None) -> str:
    """`given`, else MLFLOW_TRACKING_URI, else a database beside a local store."""
    if uri := given or os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    if store.uri.startswith("file://"):
        return f"sqlite:///{local_root(store)}/mlflow.db"
    raise TrackingError(
        f"MLFLOW_TRACKING_URI is not set and {without_userinfo(store.uri)} is no local folder: set it to the MLflow "
        "server, then `tokenmill track <run>`; events stay in the store until then"
    )


def local_root(store: ArtifactStore) -> str:
    return urlsplit(store.uri).path.rstrip("/")


def without_userinfo(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)


def target_name(uri: str) -> str:
    """A short name of an MLflow in store keys; a changed password is the same MLflow."""
    return sha256(without_userinfo(uri).rstrip("/").encode())[:12]


def connect(uri: str) -> "MlflowClient":
    """A client of a reachable MLflow, or `TrackingError` within seconds."""
    require_answer(uri)
    for name, value in _MANNERS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for noisy in ("mlflow", "alembic"):  # _MANNERS come too late where mlflow was imported before us
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with one_line_errors(uri):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextlib.contextmanager
def one_line_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow, HTTP and SQL raise into a `TrackingError` of one line."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        line = without_userinfo(first_line(error))[:600]
        if line.startswith("API request to"):  # mlflow's words for a connection that failed
            raise _away(uri, "the connection failed") from error
        kind = Refused if error.error_code in _REFUSALS else TrackingError
        raise kind(f"MLflow at {without_userinfo(uri)}: {line}") from error
    except RequestException as error:
        raise _away(uri, without_userinfo(first_line(error))[:300]) from error
    except SQLAlchemyError as error:
        raise TrackingError(f"MLflow at {without_userinfo(uri)}: {first_line(error)[:300]}") from error


def patiently(uri: str, call: Callable[[], Result]) -> Result:
    """The result of `call`, tried again when two writers met in MLflow's database: a lock, a row the other just wrote.

    What MLflow really refuses, it refuses three times.
    """
    for pause_s in (0.2, 0.5):
        try:
            with one_line_errors(uri):
                return call()
        except Away:
            raise
        except TrackingError:
            require_answer(uri)
            time.sleep(pause_s)
    with one_line_errors(uri):
        return call()


def once(
    store: ArtifactStore,
    key: str,
    *,
    find: Callable[[], str | None],
    create: Callable[[], str],
    discard: Callable[[str], None],
    alive: Callable[[str], bool] = lambda _: True,
) -> str:
    """The id of the one MLflow object that `key` stands for; made by whoever comes first.

    MLflow's create calls are not idempotent, so the store decides: exclusive creation of `key` has one winner, and what
    the others made is discarded. `find` adopts an object that somebody made through another address of the same MLflow;
    what is no longer `alive` is made anew.
    """
    backend = store.backend
    if backend.exists(key):
        known = backend.get(key).decode()
        if alive(known):
            return known
        backend.delete(key)
    found = find()
    mine = found or create()
    if backend.create(key, mine.encode()):
        return mine
    winner = backend.get(key).decode()
    if not found and winner != mine:
        discard(mine)
    return winner


def require_answer(uri: str) -> None:
    """`Away` unless a server's health endpoint answers; a database is asked when it is used."""
    if not uri.startswith(("http://", "https://")):
        return
    health = without_userinfo(uri).rstrip("/") + "/health"
    try:
        with urllib.request.urlopen(health, timeout=5):  # noqa: S310  the scheme was looked at
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:  # a proxy that wants credentials is still an answer
            return
        raise _away(uri, f"HTTP {error.code}") from None
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _away(uri, str(reason)) from None


def _away(uri: str, reason: str) -> Away:
    place = without_userinfo(uri)
    return Away(f"MLflow at {place} does not answer ({reason}): start it, or correct MLFLOW_TRACKING_URI")
