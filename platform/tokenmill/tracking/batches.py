"""What MLflow takes in one call, and the names that it takes."""

from collections.abc import Iterable, Mapping
from typing import Any

_MAX_METRICS, _MAX_PARAMS = 1000, 100


def log_all(
    client: Any,
    run_id: str,
    *,
    metrics: Iterable[tuple[str, Any, int, float]] = (),
    params: Iterable[tuple[str, Any]] = (),
    tags: Mapping[str, str] | None = None,
) -> None:
    """Log any number of (name, value, step, time), params and tags, in as few calls as MLflow allows."""
    from mlflow.entities import Metric, Param, RunTag

    points = [Metric(allowed(n), float(v), int(at * 1000), step) for n, v, step, at in metrics]
    pairs = [Param(allowed(key), str(value)[:6000]) for key, value in params]
    labels = [RunTag(key, value[:5000]) for key, value in (tags or {}).items() if value]
    while points or pairs or labels:
        client.log_batch(run_id, points[:_MAX_METRICS], pairs[:_MAX_PARAMS], labels[:_MAX_PARAMS], synchronous=True)
        points, pairs, labels = points[_MAX_METRICS:], pairs[_MAX_PARAMS:], labels[_MAX_PARAMS:]


def allowed(name: str) -> str:
    """MLflow takes letters, digits and `_-. :/` in names."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)[:250]
