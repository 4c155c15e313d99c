"""How much of a right answer stands in an answer: exact match and F1 (SQuAD), ROUGE-L.

Words are what SQuAD's script leaves of a text (Rajpurkar et al. 2016: no case, punctuation or English articles); Chinese,
which has no spaces, counts by character, as do Japanese kana, so that an answer in several languages is counted alike.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = frozenset({"a", "an", "the"})
_SINGLE = r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff\U00020000-\U0003ffff]"
_WORD = re.compile(rf"{_SINGLE}|(?:(?!{_SINGLE})\S)+")


def words(text: str, *, articles: bool = False) -> list[str]:
    """The words that count: lower case, without punctuation, and without articles unless they are asked for."""
    kept = "".join(c for c in unicodedata.normalize("NFKC", text).lower() if unicodedata.category(c)[0] not in "PS")
    return [word for word in _WORD.findall(kept) if articles or word not in _ARTICLES]


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 where the answer has exactly the words of one of the right ones."""
    return float(any(words(answer) == words(one) for one in right))


def f1(answer: str, right: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, order aside, with the right answer that fits best."""
    return max(_f1(words(answer), words(one)) for one in right)


def _f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))


def rouge_l(answer: str, right: Sequence[str]) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004, with β = 1), with the reference that fits best."""
    return max(_rouge_l(words(answer, articles=True), words(one, articles=True)) for one in right)


def _rouge_l(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    return 2 * _common(said, wanted) / (len(said) + len(wanted))


def _common(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for j, against in enumerate(other, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == against else max(above, row[j - 1])
            diagonal = above
    return row[-1]
