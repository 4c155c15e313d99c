"""BLEU and chrF by sacrebleu, whose numbers papers compare: 0 to 100."""

from collections.abc import Iterable, Sequence
from typing import Any


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


def corpus_counts(
    metric: str, answers: Sequence[str], right: Sequence[Sequence[str]], language: str = "en"
) -> list[list[float]]:
    """What `bleu` or `chrf` counts in each answer. `corpus_score` of a sum of them is the metric of those answers.

    They are those that sacrebleu's own bootstrap sums up, which it has no public name for.
    """
    counts = _metric(metric, language)._extract_corpus_statistics(list(answers), _streams(right))
    return [[float(count) for count in row] for row in counts]


def corpus_score(metric: str, total: Iterable[float]) -> float:
    """`bleu` or `chrf`, 0 to 100, of the answers whose counts sum to `total`."""
    whole = int if metric == "bleu" else float
    return float(_metric(metric)._compute_score_from_stats([whole(x) for x in total]).score)


def _metric(name: str, language: str = "en") -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(tokenize=_tokenize(language)) if name == "bleu" else CHRF()


def _tokenize(language: str) -> str:
    return {"zh": "zh", "ja": "char", "ko": "char", "th": "char"}.get(language, "13a")


def _streams(right: Sequence[Sequence[str]]) -> list[list[str]]:
    """Sentence → references, as reference → sentences."""
    return [list(stream) for stream in zip(*right, strict=True)]
