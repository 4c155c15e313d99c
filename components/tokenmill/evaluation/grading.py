"""What a written answer is worth beside the right one, by the metric that its question names."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from tokenmill import answers
from tokenmill.evaluation.metrics import exact_match, f1, rouge_l

Metric = Literal["same", "exact_match", "f1", "rouge_l"]
"""How an answer is compared with the right one. same: as numbers, or as text."""

METRICS: dict[str, Callable[[str, str], float]] = {
    "same": lambda found, right: float(answers.same(found, right)),
    "exact_match": lambda found, right: exact_match(found, [right]),
    "f1": lambda found, right: f1(found, [right]),
    "rouge_l": lambda found, right: rouge_l(found, [right]),
}


def graded(said: str, record: Mapping[str, Any]) -> tuple[str | None, float]:
    """The answer in what was said, by the record's `extraction`, and its score by the record's `metric`."""
    found = answers.EXTRACTIONS[record.get("extraction", "final")](said)
    return found, 0.0 if found is None else METRICS[record.get("metric", "same")](found, record["answer"])
