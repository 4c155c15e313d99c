"""A long step's events → MLflow while it works."""

import os
import threading

from tokenmill.errors import first_line
from tokenmill.logs import Log
from tokenmill.store import ArtifactStore
from tokenmill.tracking.delivery import Delivery
from tokenmill.tracking.run import RunRef

LIVE_EVERY_S = float(os.environ.get("TOKENMILL_DELIVER_EVERY_S", "15"))
"""How often a long step's events go to MLflow while it works."""


class DeliveryThread:
    """Delivers a long step's events while it works, and what is left when it stops if MLflow was ever reached.

    A step shorter than `every_s` never imports mlflow. An MLflow that is away costs one warning line; the thread goes on
    trying, the work does not notice, and what could not be delivered waits for the exit task.
    """

    def __init__(
        self,
        store: ArtifactStore,
        run: RunRef,
        task: str,
        *,
        tracking_uri: str | None = None,
        every_s: float = LIVE_EVERY_S,
        stop_timeout_s: float = 10.0,
    ):
        self._store, self._run, self._task, self._uri = store, run, task, tracking_uri
        self._log = Log({"run": run.key, "task": task})
        self._every_s, self._stop_timeout_s = every_s, stop_timeout_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"deliver-{task}", daemon=True)
        self._delivery: Delivery | None = None
        self._away = False

    def __enter__(self) -> "DeliveryThread":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Flush the task's `EventLog` first: the last delivery sees only what is stored."""
        self._stopping.set()
        self._thread.join(self._stop_timeout_s)
        if self._thread.is_alive():
            self._log.warning("MLflow is slow; what is left is delivered when the run closes")

    def _loop(self) -> None:
        pause_s = self._every_s
        while not self._stopping.wait(pause_s):
            pause_s = self._every_s if self._attempt() else min(2 * pause_s, 60.0)
        if self._delivery and not self._away:
            self._attempt()

    def _attempt(self) -> bool:
        try:
            if self._delivery is None:
                self._delivery = Delivery(self._store, self._run, self._uri)
            self._delivery.deliver(task=self._task)
        except Exception as error:  # whatever tracking does, the work goes on
            if not self._away:
                self._log.warning("tracking waits, the work goes on", reason=first_line(error))
            self._away = True
            return False
        if self._away:
            self._log.info("MLflow is back, tracking is up to date")
        self._away = False
        return True
