"""Events → MLflow. Steps append events beside the artifacts and never wait; delivery may come later."""

from tokenmill.tracking.connection import TrackingError
from tokenmill.tracking.delivery import Delivered, deliver
from tokenmill.tracking.events import Event, EventFollower, EventLog, RunRef, manifest_uri, read_events, read_run
from tokenmill.tracking.live import DeliveryThread
from tokenmill.tracking.registry import Registry, registry_ready

__all__ = [
    "Delivered",
    "DeliveryThread",
    "Event",
    "EventFollower",
    "EventLog",
    "Registry",
    "RunRef",
    "TrackingError",
    "deliver",
    "manifest_uri",
    "read_events",
    "read_run",
    "registry_ready",
]
