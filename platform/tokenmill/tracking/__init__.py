"""Events → MLflow. Steps append events beside the artifacts and never wait; delivery may come later."""

from tokenmill.tracking.connection import TrackingError
from tokenmill.tracking.delivery import Delivered, deliver
from tokenmill.tracking.event_files import Event, EventFollower, read_events
from tokenmill.tracking.events import EventLog
from tokenmill.tracking.live import DeliveryThread
from tokenmill.tracking.registry import Registry, registry_ready
from tokenmill.tracking.run import RunRef, read_run

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
    "read_events",
    "read_run",
    "registry_ready",
]
