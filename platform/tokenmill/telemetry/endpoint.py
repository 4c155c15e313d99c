"""`GET /metrics` of a process that works for long: Prometheus scrapes it while it lives.

`TOKENMILL_METRICS_PORT` names the port, 0 any; without it nothing listens. One process of a pod serves: the one that works.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tokenmill.logs import Log
from tokenmill.telemetry.board import Page

PORT = "TOKENMILL_METRICS_PORT"


@contextmanager
def served(page: Page, log: Log) -> Iterator[None]:
    """Serve a page for as long as the block takes. A port that cannot be had costs one warning, never the work."""
    wanted = os.environ.get(PORT)
    server = None
    if wanted:
        from prometheus_client import start_http_server

        try:
            server, thread = start_http_server(int(wanted), registry=page.registry())
            log.info("metrics", port=server.server_port)
        except (OSError, ValueError, OverflowError) as error:
            log.warning(f"{PORT}={wanted}: metrics are not served", reason=str(error))
    try:
        yield
    finally:
        if server:
            server.shutdown()
            server.server_close()
            thread.join()
