"""BLEU and chrF by sacrebleu, whose numbers papers compare: 0 to 100."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy

Statistics = numpy.ndarray[Any, numpy.dtype[numpy.float64]]


def bleu(answers: Sequence[str], right: Sequence[Sequence[str]], language: str = "en") -> float:
    """Of a corpus, not a mean over sentences; Chinese is cut by character, Japanese and Korean too (sacrebleu's `zh`, `char`).

    Args:
        answers: one translation a sentence.
        right: of each sentence its references, as many for each.
        language: of the translations, ISO 639-1.
    """
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(list(answers), _streams(right), tokenize=_tokenize(language)).score)


def chrf(answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """Of a corpus: F-score of character n-grams up to six, β = 2 (Popović 2015)."""
    from sacrebleu import corpus_chrf

    return float(corpus_chrf(list(answers), _streams(right)).score)


def corpus_statistics(
    metric: str, answers: Sequence[str], right: Sequence[Sequence[str]], language: str = "en"
) -> tuple[Statistics, Callable[[Statistics], float]]:
    """What a bootstrap of `bleu` or `chrf` draws from: the counts of each answer, and the score of any sum of them, 0 to 100.

    They are those that sacrebleu's own bootstrap sums up, which it has no public name for.
    """
    from sacrebleu.metrics import BLEU, CHRF

    made: Any = BLEU(tokenize=_tokenize(language)) if metric == "bleu" else CHRF()
    counts = made._extract_corpus_statistics(list(answers), _streams(right))
    whole = int if metric == "bleu" else float
    return numpy.asarray(counts, dtype=numpy.float64), lambda total: float(
        made._compute_score_from_stats([whole(x) for x in total]).score
    )


def _tokenize(language: str) -> str:
    return {"zh": "zh", "ja": "char", "ko": "char", "th": "char"}.get(language, "13a")


def _streams(right: Sequence[Sequence[str]]) -> list[list[str]]:
    """Sentence → references, as reference → sentences."""
    return [list(stream) for stream in zip(*right, strict=True)]
