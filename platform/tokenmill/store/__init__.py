"""Artifacts in a folder or a bucket: blobs, manifests, the action cache, leases, garbage collection."""

from tokenmill.store.artifacts import ArtifactStore, open_store
from tokenmill.store.backend import Backend, Entry, NotFoundError, open_backend
from tokenmill.store.collection import DiskUse, GcReport, du, gc
from tokenmill.store.copying import Copied, copy_store
from tokenmill.store.lease import Lease, LeaseRecord, acquire, current_lease, watch_lease

__all__ = [
    "ArtifactStore",
    "Backend",
    "Copied",
    "DiskUse",
    "Entry",
    "GcReport",
    "Lease",
    "LeaseRecord",
    "NotFoundError",
    "acquire",
    "copy_store",
    "current_lease",
    "du",
    "gc",
    "open_backend",
    "open_store",
    "watch_lease",
]
