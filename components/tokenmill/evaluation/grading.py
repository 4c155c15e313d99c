"""What a written answer is worth beside the right one, by the metric that its question names."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from tokenmill import answers
from tokenmill.evaluation import needle
from tokenmill.evaluation.metrics import bleu, chrf, corpus_counts, corpus_score, exact_match, f1, rouge_l

Prediction = dict[str, Any]
Metric = Literal["same", "exact_match", "f1", "rouge_l", "bleu", "chrf", "needle", "judge"]
"""How an answer is compared with the right one. same: as numbers, or as text; bleu, chrf: of a translation; needle: with the
hidden sentence and its keyword; judge: there is none, another model grades (`judging`)."""

METRICS: dict[str, Callable[[str, list[str], str], float]] = {
    "same": lambda found, right, _: float(any(answers.same(found, one) for one in right)),
    "exact_match": lambda found, right, _: exact_match(found, right),
    "f1": lambda found, right, _: f1(found, right),
    "rouge_l": lambda found, right, _: rouge_l(found, right),
    "bleu": lambda found, right, language: bleu([found], [right], language) / 100,
    "chrf": lambda found, right, _: chrf([found], [right]) / 100,
    "needle": lambda found, right, _: needle.score(found, *right) / 100,
}
"""Of one answer, 0 to 1: found, right ones, their language."""
CORPUS = ("bleu", "chrf")
"""Metrics of all answers together, which no mean over answers is."""
NAMES = {
    "same": "accuracy",
    "exact_match": "exact match",
    "f1": "F1",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
    "needle": "needle score",
    "judge": "judge's rating",
}
MODE_NAMES = {
    "perplexity": "perplexity",
    "choice": "accuracy",
    "likelihood": "accuracy",
    "instructions": "mean of IFEval's four accuracies",
    "format": "well-formed share",
}


def graded(said: str, record: Mapping[str, Any]) -> tuple[str | None, float]:
    """The answer in what was said, by the record's `extraction`, and its score by the record's `metric`."""
    found = answers.EXTRACTIONS[record.get("extraction", "final")](said)
    if found is None:
        return None, 0.0
    return found, METRICS[record.get("metric", "same")](found, _right(record), record.get("language", "en"))


def graded_as(mode: str, records: Sequence[Mapping[str, Any]]) -> str:
    """The name of what a suite is measured by; all its questions name one metric."""
    if "turns" in records[0]:
        return "circular accuracy"
    if "baseline" in records[0]:
        return "win rate"
    if mode == "code":
        return f"pass@{records[0].get('k', 1)}"
    return MODE_NAMES.get(mode) or NAMES[records[0].get("metric", "same")]


def counted(predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]) -> list[Prediction]:
    """Predictions, each with its `counts` where the suite's metric is of all answers together."""
    if "instructions" in records[0]:
        return [prediction | {"counts": _followed(prediction)} for prediction in predictions]
    metric = records[0].get("metric")
    if metric not in CORPUS:
        return list(predictions)
    found = [prediction["found"] or "" for prediction in predictions]
    counts = corpus_counts(metric, found, [_right(r) for r in records], records[0].get("language", "en"))
    return [prediction | {"counts": one} for prediction, one in zip(predictions, counts, strict=True)]


def of_all(metric: str) -> Callable[[Iterable[float]], float]:
    """The score, 0 to 1, of a sum of `counts`, under the metric of that name."""
    if metric == MODE_NAMES["instructions"]:
        return _mean_of_four
    name = next(one for one in CORPUS if NAMES[one] == metric)
    return lambda total: corpus_score(name, total) / 100


def _followed(prediction: Prediction) -> list[int]:
    """Prompts, those followed strictly and loosely; instructions, and so many of them: what IFEval's four numbers divide."""
    strict, loose = prediction["strict"], prediction["loose"]
    return [1, int(all(strict)), int(all(loose)), len(strict), sum(strict), sum(loose)]


def _mean_of_four(total: Iterable[float]) -> float:
    """Of IFEval's accuracies (`instructions.accuracies`), out of summed counts."""
    prompts, strict, loose, instructions, each_strict, each_loose = total
    return ((strict + loose) / prompts + (each_strict + each_loose) / instructions) / 4


def _right(record: Mapping[str, Any]) -> list[str]:
    """The right answers, any of which will do."""
    answer = record["answer"]
    return [answer] if isinstance(answer, str) else list(answer)
