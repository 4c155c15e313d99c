"""Prometheus numbers of steps that have ended, which no scrape would meet: a textfile, or a push.

`TOKENMILL_METRICS_DIR` is a folder that node-exporter's textfile collector reads; `TOKENMILL_PUSHGATEWAY` the address of a
Pushgateway. With neither nothing happens, and a number that cannot be written costs one warning, never the step.
"""

import fcntl
import os
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path

from tokenmill.logs import Log

TEXTFILE = "tokenmill.prom"
_METRICS = {
    "tokenmill_step_seconds": ("gauge", "Wall time of the step's latest run."),
    "tokenmill_step_finished_timestamp_seconds": ("gauge", "When the step's latest run ended."),
    "tokenmill_step_success": ("gauge", "Whether the step's latest run succeeded."),
    "tokenmill_steps_total": ("counter", "Runs of the step by outcome."),
}
_LINE = re.compile(r"^(\w+)(\{.*\}) (\S+)$")
Values = dict[str, dict[str, float]]  # metric → labels as written → value


def step_ended(step: str, cache: str, seconds: float, *, succeeded: bool = True) -> None:
    """Record that a step ended.

    Args:
        step: registered name, `phase.step`.
        cache: `hit`, `miss` or `effect`; empty for a failure.
        seconds: wall time.
        succeeded: False for a failure.
    """
    folder, gateway = os.environ.get("TOKENMILL_METRICS_DIR"), os.environ.get("TOKENMILL_PUSHGATEWAY")
    phase = step.partition(".")[0]
    here, outcome = _labels(phase=phase, step=step), "succeeded" if succeeded else "failed"
    latest: Values = {
        "tokenmill_step_seconds": {_labels(phase=phase, step=step, cache=cache): seconds} if succeeded else {},
        "tokenmill_step_finished_timestamp_seconds": {here: round(time.time(), 3)},
        "tokenmill_step_success": {here: float(succeeded)},
    }
    try:
        if folder:
            _write(Path(folder), latest, _labels(phase=phase, step=step, cache=cache, outcome=outcome))
        if gateway:
            _push(gateway, step, latest)
    except (OSError, ValueError) as error:
        Log().warning("step metrics were not written", step=step, reason=str(error))


def _write(folder: Path, latest: Values, counted: str) -> None:
    """Merge into the one textfile: node-exporter refuses all when two files hold the same series."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{TEXTFILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / TEXTFILE
        values = _read(path.read_text("utf-8")) if path.exists() else {}
        for name, series in latest.items():
            values.setdefault(name, {}).update(series)
        totals = values.setdefault("tokenmill_steps_total", {})
        totals[counted] = totals.get(counted, 0.0) + 1
        temporary = folder / f".{TEXTFILE}.{os.getpid()}"  # the collector reads *.prom only
        temporary.write_text(_exposition(values), "utf-8")
        temporary.chmod(0o644)
        temporary.replace(path)


def _push(gateway: str, step: str, latest: Values) -> None:
    """The step's latest run, in a group of its own: totals cannot be kept where every push replaces the last."""
    url = f"{gateway.rstrip('/')}/metrics/job/tokenmill/step_group/{urllib.parse.quote(step, safe='')}"
    if not url.startswith(("http://", "https://")):
        raise ValueError("TOKENMILL_PUSHGATEWAY must be an http(s) address")
    request = urllib.request.Request(url, _exposition(latest).encode(), method="PUT")  # noqa: S310  scheme was looked at
    with urllib.request.urlopen(request, timeout=5):  # noqa: S310
        pass


def _exposition(values: Values) -> str:
    lines = []
    for name, series in values.items():
        if series:
            kind, told = _METRICS[name]
            lines += [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{labels} {value!r}" for labels, value in sorted(series.items())]
    return "\n".join(lines) + "\n"


def _read(text: str) -> Values:
    values: Values = {}
    for match in filter(None, map(_LINE.match, text.splitlines())):
        if match[1] in _METRICS:
            values.setdefault(match[1], {})[match[2]] = float(match[3])
    return values


def _labels(**labels: str) -> str:
    escaped = {k: v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for k, v in labels.items()}
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
