"""BLEU and chrF by sacrebleu, whose numbers papers compare: 0 to 100."""

from collections.abc import Sequence


def bleu(answers: Sequence[str], right: Sequence[Sequence[str]], language: str = "en") -> float:
    """Of a corpus, not a mean over sentences; Chinese is cut by character, Japanese and Korean too (sacrebleu's `zh`, `char`).

    Args:
        answers: one translation a sentence.
        right: of each sentence its references, as many for each.
        language: of the translations, ISO 639-1.
    """
    from sacrebleu import corpus_bleu

    tokenize = {"zh": "zh", "ja": "char", "ko": "char", "th": "char"}.get(language, "13a")
    return float(corpus_bleu(list(answers), _streams(right), tokenize=tokenize).score)


def chrf(answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """Of a corpus: F-score of character n-grams up to six, β = 2 (Popović 2015)."""
    from sacrebleu import corpus_chrf

    return float(corpus_chrf(list(answers), _streams(right)).score)


def _streams(right: Sequence[Sequence[str]]) -> list[list[str]]:
    """Sentence → references, as reference → sentences."""
    return [list(stream) for stream in zip(*right, strict=True)]
