"""Finding tricks: what late answers do often and early ones hardly ever did (report §4.2.2, "fast path")."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_SUFFIX_WORDS = (2, 3, 4, 5)


@dataclass(frozen=True)
class Hack:
    """A pattern, and how often it is met late and early."""

    pattern: str
    late: float
    early: float
    shows: Callable[[str], bool]
    """Whether an answer has it."""


def find_hacks(early: Sequence[str], late: Sequence[str], min_share: float, min_lift: float) -> list[Hack]:
    """Patterns in at least `min_share` of the late answers and `min_lift` times as often as in the early ones."""
    long = 1.5 * sum(len(text.split()) for text in early) / len(early)
    candidates = {"repeats itself": repeats, "grows long": lambda text: len(text.split()) > long}
    for suffix in _common_suffixes(late, min_share):
        candidates[f"ends in {suffix!r}"] = _ends_in(suffix)
    hacks = []
    for pattern, shows in candidates.items():
        share_late, share_early = (sum(map(shows, texts)) / len(texts) for texts in (late, early))
        if share_late >= min_share and share_late >= min_lift * max(share_early, 1 / len(early)):
            hacks.append(Hack(pattern, share_late, share_early, shows))
    return hacks


def repeats(text: str, limit: float = 0.3) -> bool:
    """Whether more than `limit` of the three-word sequences came before."""
    words = text.split()
    grams = list(zip(words, words[1:], words[2:], strict=False))
    return len(grams) > 3 and 1 - len(set(grams)) / len(grams) > limit


def _common_suffixes(texts: Sequence[str], min_share: float) -> list[str]:
    """The longest endings that are frequent; an ending within a longer, equally frequent one says nothing more."""
    counts = Counter(" ".join(text.split()[-n:]) for text in texts for n in _SUFFIX_WORDS if len(text.split()) > n)
    frequent = sorted((s for s, count in counts.items() if count >= min_share * len(texts)), key=len, reverse=True)
    return [s for i, s in enumerate(frequent) if not any(other.endswith(s) for other in frequent[:i])]


def _ends_in(suffix: str) -> Callable[[str], bool]:
    return lambda text: " ".join(text.split()).endswith(suffix)
