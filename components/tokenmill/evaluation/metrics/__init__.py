"""Metrics: what an answer, or a set of answers, is worth. Functions of text and counts; 0 to 1 unless they say otherwise."""

from tokenmill.evaluation.metrics.circular import circular, rotations
from tokenmill.evaluation.metrics.overlap import exact_match, f1, rouge_l, words
from tokenmill.evaluation.metrics.sampling import pass_at_k
from tokenmill.evaluation.metrics.translation import bleu, chrf, corpus_counts, corpus_score

__all__ = [
    "accuracy",
    "bleu",
    "chrf",
    "circular",
    "corpus_counts",
    "corpus_score",
    "exact_match",
    "f1",
    "pass_at_k",
    "rotations",
    "rouge_l",
    "words",
]


def accuracy(predicted: list[str], right: list[str]) -> float:
    """Share of predictions that are the right answer, letter by letter."""
    return sum(one == other for one, other in zip(predicted, right, strict=True)) / len(right)
