"""Where things lie in a store.

blobs/<sha[:2]>/<sha>               stored bytes, under their own sha256
manifests/<digest>                  what an artifact is, and where it comes from
actions/<key>                       what a step made of given inputs: the action cache
children/<parent>/<child>           the way down the lineage; the way up is in the manifests
work/<key>/lease/<n>                who works on an action; work/<key>/<attempt>/… is that attempt's, and disposable
runs/<run>/…                        events of a run
pins/<name>                         a digest that garbage collection keeps, with all its ancestors; registered models have one
registry/<mlflow>/<model>/<digest>  the version that a manifest is registered as
audit/<identity>/<model>/<n>        a move of an alias of a registered model, begun or ended; never deleted
environments/<name>                 what an environment held that steps ran in: kilobytes, never deleted
annotations/…                       what people said of answers; nothing that is made anew: collection leaves it alone
tombstones/<document>               a document that was taken down, and every model that saw it
gc/<notice>                         what a running collection is about to delete
"""

import re

from tokenmill.errors import StoreError
from tokenmill.store.backend import check_key

TOMBSTONES = "tombstones"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _sha256(value: str) -> str:
    if not _SHA256.fullmatch(value):
        raise StoreError(f"{value!r} is not a sha256: 64 hexadecimal digits are wanted")
    return value


def blob_key(sha: str) -> str:
    return f"blobs/{_sha256(sha)[:2]}/{sha}"


def manifest_key(digest: str) -> str:
    return f"manifests/{_sha256(digest)}"


def child_key(parent: str, child: str) -> str:
    return f"children/{_sha256(parent)}/{_sha256(child)}"


def action_key(key: str) -> str:
    return check_key(f"actions/{key}")


def work_key(key: str, *rest: str) -> str:
    return check_key("/".join(("work", key, *rest)))


def pin_key(name: str) -> str:
    return check_key(f"pins/{name}")


def tombstone_key(document: str) -> str:
    return check_key(f"{TOMBSTONES}/{document}")


def registry_key(target: str, model: str, digest: str) -> str:
    return check_key(f"registry/{target}/{model}/{_sha256(digest)}")


def environment_key(name: str) -> str:
    return f"environments/{_sha256(name)}"


def audit_key(identity: str, model: str, number: int | None) -> str:
    """Of one record; without a number, what all records of a model begin with."""
    last = "" if number is None else f"{number:06d}.json"
    return check_key(f"audit/{identity}/{model}/{last}", prefix=number is None)
