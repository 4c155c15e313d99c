"""Events → Prometheus: scraped while a step works, left behind when it ends."""

from tokenmill.telemetry.board import Board, Page, info, since
from tokenmill.telemetry.catalogue import METRICS
from tokenmill.telemetry.endpoint import served
from tokenmill.telemetry.leaving import GATEWAY, leave, leave_run

__all__ = ["GATEWAY", "METRICS", "Board", "Page", "info", "leave", "leave_run", "served", "since"]
