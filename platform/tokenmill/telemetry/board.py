"""Numbers as Prometheus reads them, taken from the events of steps: what MLflow is told and what is scraped is one thing."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tokenmill.telemetry.catalogue import METRICS, STEP, metric_of

Value = float | Callable[[], float]
_PART = re.compile(r"\.(group|part)-\d+$")
"""What the name of a loop's task ends with. A label with it would be as many series as a corpus has groups."""


class Page:
    """Series by metric. A collector of prometheus-client's, which is imported when somebody reads."""

    def __init__(self) -> None:
        self._series: dict[str, dict[tuple[tuple[str, str], ...], Value]] = {}
        self._lock = threading.Lock()

    def set(self, metric: str, value: Value, **labels: str) -> None:
        """Set a series; a function is asked when somebody reads. What the catalogue does not have is a mistake here."""
        known = METRICS[metric]
        if unknown := set(labels) - {*STEP, *known.labels}:
            raise ValueError(f"{metric} has no label {sorted(unknown)}")
        with self._lock:
            self._series.setdefault(metric, {})[tuple(sorted(labels.items()))] = value

    def forget(self, **labels: str) -> None:
        """Drop the gauges with these labels."""
        gone = set(labels.items())
        with self._lock:
            for metric, series in self._series.items():
                if METRICS[metric].kind == "gauge":
                    for key in [key for key in series if gone <= set(key)]:
                        del series[key]

    @classmethod
    def of_all(cls, pages: Iterable["Page"]) -> "Page":
        """All pages in one: series that several have, of parts of a step, become one."""
        whole, known = cls(), dict[tuple[str, ...], float]()
        for page in pages:
            for metric, labels, value in page.samples():
                series = (metric, *(word for pair in sorted(labels.items()) for word in pair))
                if series in known:
                    value = METRICS[metric].of_both(known[series], value)
                known[series] = value
                whole.set(metric, value, **labels)
        return whole

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """(metric, labels, value), in the catalogue's order."""
        with self._lock:
            kept = {metric: dict(self._series[metric]) for metric in METRICS if self._series.get(metric)}
        for metric, series in kept.items():
            for labels, value in series.items():
                yield metric, dict(labels), value() if callable(value) else value

    def collect(self) -> Iterator[Any]:
        """As prometheus-client's registry asks for it."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: dict[str, Any] = {}
        for metric, labels, value in self.samples():
            if metric not in families:
                known = METRICS[metric]
                made = CounterMetricFamily if known.kind == "counter" else GaugeMetricFamily
                families[metric] = made(metric, known.told, labels=(*STEP, *known.labels))
            family = families[metric]
            family.add_metric([labels.get(name, "") for name in family._labelnames], value)
        yield from families.values()

    def registry(self) -> Any:
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry

    def text(self) -> bytes:
        """Prometheus's text format."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self.registry()))


class Board:
    """A task's numbers on a page: give it every event of the task, in order."""

    def __init__(self, page: Page, task: str, step: str = "") -> None:
        """`step` where the events are those of a step that another process began."""
        self.page, self.task, self.step = page, task, step

    @property
    def labels(self) -> dict[str, str]:
        return {"phase": self.step.partition(".")[0], "step": self.step, "task": _PART.sub("", self.task)}

    def set(self, metric: str, value: Value, **own: str) -> None:
        self.page.set(metric, value, **self.labels, **own)

    def take(self, kind: str, data: Mapping[str, Any], at: float) -> None:
        """Take what an event says. Kinds that say nothing in numbers pass."""
        if kind == "metrics":
            self._metrics(data)
        elif kind == "step_started":
            self.step = data["step"]
            self.page.forget(**self.labels)
            self.set("tokenmill_step_started_timestamp_seconds", at)
            if data["budget_s"] is not None:
                self.set("tokenmill_step_budget_seconds", data["budget_s"])
        elif kind == "step_finished":
            self._finished(data, at)
        elif kind == "step_failed":
            self._ended(at, succeeded=False)

    def _metrics(self, data: Mapping[str, Any]) -> None:
        for number, value in data["values"].items():
            if found := metric_of(number, self.step):
                rule, own = found
                self.set(rule.metric, float(value) * rule.factor, **own)
        if "loss" in data["values"]:  # of a training, whose numbers are at a count of tokens
            self.set("tokenmill_training_tokens", data["step"])

    def _finished(self, data: Mapping[str, Any], at: float) -> None:
        for role, output in data["outputs"].items():
            counts = output["counts"]
            if "records" in counts:
                self.set("tokenmill_output_records", counts["records"], output=role)
            if "bytes" in output:  # events of an earlier version do not say
                self.set("tokenmill_output_bytes", output["bytes"], output=role)
            for reason, records in output["dropped"].items():
                self.set("tokenmill_dropped_records", records, output=role, reason=reason)
            if output["kind"] == "verdict":
                self.set("tokenmill_gate_passed", counts["passed"])
                self.set("tokenmill_gate_failed_checks", counts["failed"])
        self.set("tokenmill_step_seconds", data["seconds"], cache=data["cache"])
        self._ended(at, succeeded=True)

    def _ended(self, at: float, *, succeeded: bool) -> None:
        self.set("tokenmill_step_finished_timestamp_seconds", round(at, 3))
        self.set("tokenmill_step_success", float(succeeded))


def info(board: Board, run: Any) -> None:
    """Say which run the board's task is a part of (`tracking.RunRef`)."""
    board.set("tokenmill_run_info", 1.0, run=run.key, pipeline=run.name, preset=run.preset)


def since(moment: float) -> float:
    """A moment of `time.monotonic()` as seconds since 1970."""
    return time.time() - (time.monotonic() - moment)
