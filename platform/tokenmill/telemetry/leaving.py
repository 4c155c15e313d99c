"""Numbers of steps that have ended, which no scrape would meet: a textfile, or a push.

`TOKENMILL_METRICS_DIR` is a folder that node-exporter's textfile collector reads; `TOKENMILL_PUSHGATEWAY` the address of a
Pushgateway. With neither nothing happens, and a number that cannot be written costs one warning, never the step.

At a Pushgateway a running run has a group a task, so runs never meet; of a step in parts the one that ended last is there.
When the run ends its groups are deleted, and all that they said goes into the one group of its pipeline and preset, which the
next run that ends replaces.
"""

import fcntl
import os
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path

from tokenmill.logs import Log
from tokenmill.telemetry.board import Page
from tokenmill.telemetry.catalogue import METRICS, STEP

FOLDER, GATEWAY = "TOKENMILL_METRICS_DIR", "TOKENMILL_PUSHGATEWAY"
TEXTFILE = "tokenmill.prom"
TIMEOUT_S = 5
_LOST = (OSError, ValueError, HTTPException)
"""What a folder or an address that is none may raise."""


def leave(page: Page, run: str, labels: Mapping[str, str], cache: str) -> None:
    """Leave the numbers of a step that ended.

    Args:
        page: what the step's events said.
        run: the run's key.
        labels: `phase`, `step`, `task`.
        cache: `hit`, `miss` or `effect`; empty for a failure.
    """
    folder, gateway = os.environ.get(FOLDER), os.environ.get(GATEWAY)
    try:
        if folder:
            _merge(Path(folder), page, labels, cache)
        if gateway:
            _send(gateway, "PUT", {"run": run, "task": labels["task"]}, page.text())
    except _LOST as error:
        Log().warning("step metrics were not written", step=labels["step"], reason=str(error))


def leave_run(page: Page, run: str, tasks: Iterable[str], pipeline: str, preset: str) -> None:
    """Put the numbers of a whole run that ended into its pipeline's group, and delete those of its tasks."""
    gateway = os.environ[GATEWAY]
    try:
        _send(gateway, "PUT", {"pipeline": pipeline, "preset": preset or "none"}, page.text())
        for task in tasks:
            _send(gateway, "DELETE", {"run": run, "task": task})
    except _LOST as error:
        Log().warning("run metrics were not written", run=run, reason=str(error))


def _merge(folder: Path, page: Page, labels: Mapping[str, str], cache: str) -> None:
    """Merge into the one textfile: node-exporter refuses all when two files hold the same series."""
    from prometheus_client.parser import text_string_to_metric_families

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{TEXTFILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path, merged = folder / TEXTFILE, Page()
        for family in text_string_to_metric_families(path.read_text("utf-8") if path.exists() else ""):
            for sample in family.samples:  # what another version left, and this one does not know, is not kept
                known = METRICS.get(sample.name)
                if known and set(sample.labels) <= {*STEP, *known.labels}:
                    merged.set(sample.name, sample.value, **sample.labels)
        merged.forget(**labels)
        for metric, own, value in page.samples():
            merged.set(metric, value, **own)
        counted = {**labels, "cache": cache, "outcome": "succeeded" if cache else "failed"}
        before = {tuple(sorted(own.items())): n for name, own, n in merged.samples() if name == "tokenmill_steps_total"}
        merged.set("tokenmill_steps_total", before.get(tuple(sorted(counted.items())), 0.0) + 1, **counted)
        temporary = folder / f".{TEXTFILE}.{os.getpid()}"  # the collector reads *.prom only
        temporary.write_bytes(merged.text())
        temporary.chmod(0o644)
        temporary.replace(path)


def _send(gateway: str, method: str, group: Mapping[str, str], body: bytes | None = None) -> None:
    names = "".join(f"/{label}/{urllib.parse.quote(value, safe='')}" for label, value in group.items())
    url = f"{gateway.rstrip('/')}/metrics/job/tokenmill{names}"
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{GATEWAY} must be an http(s) address")
    request = urllib.request.Request(url, body, method=method)  # noqa: S310  scheme was looked at
    with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
        pass
