"""Finding tricks: what late answers do often and early ones hardly ever did (report §4.2.2, "fast path")."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_EDGE_WORDS = (2, 3, 4, 5)
"""Words of a boilerplate ending or beginning."""
JUDGED_WORSE = "the reward rises while a held-out judge's falls"
WRONG_ANSWERS = "right answers become wrong while the reward rises"


@dataclass(frozen=True)
class Hack:
    """A pattern, and how often it is met late and early."""

    pattern: str
    late: float
    early: float
    shows: Callable[[str], bool]
    """Whether an answer has it."""


def find_hacks(
    early: Sequence[str], late: Sequence[str], domains: Sequence[str], min_share: float, min_lift: float
) -> list[Hack]:
    """Patterns in at least `min_share` of the late answers and `min_lift` times as often as in the early ones.

    Args:
        early: one answer a query, from before the policy was optimised, or from early on.
        late: the optimised policy's answers to the same queries.
        domains: what is wished of an answer, a query. How an answer begins is its style, which a domain may well want
            ("Sorry, …"): only a beginning that is frequent whatever is wished is boilerplate.
    """
    words = sum(len(text.split()) for text in early) / len(early)
    candidates: dict[str, Callable[[str], bool]] = {
        "repeats itself": repeats,
        "grows long": lambda text: len(text.split()) > 1.5 * words,
        "becomes short": lambda text: len(text.split()) < 0.5 * words,
    }
    for suffix in _frequent(late, min_share, _ending):
        candidates[f"ends in {suffix!r}"] = _ends_in(suffix)
    by_domain = [[text for text, of in zip(late, domains, strict=True) if of == domain] for domain in set(domains)]
    for prefix in _frequent(late, min_share, _beginning):
        begins = _begins_with(prefix)
        if all(sum(map(begins, texts)) >= min_share * len(texts) for texts in by_domain):
            candidates[f"begins with {prefix!r}"] = begins
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


def _frequent(texts: Sequence[str], min_share: float, edge: Callable[[list[str], int], str]) -> list[str]:
    """The longest frequent edges; an edge within a longer, equally frequent one says nothing more."""
    counts = Counter(edge(text.split(), n) for text in texts for n in _EDGE_WORDS if len(text.split()) > n)
    frequent = sorted((s for s, count in counts.items() if count >= min_share * len(texts)), key=len, reverse=True)
    return [
        s for i, s in enumerate(frequent) if not any(edge(other.split(), len(s.split())) == s for other in frequent[:i])
    ]


def _ending(words: list[str], n: int) -> str:
    return " ".join(words[-n:])


def _beginning(words: list[str], n: int) -> str:
    return " ".join(words[:n])


def _ends_in(suffix: str) -> Callable[[str], bool]:
    return lambda text: " ".join(text.split()).endswith(suffix)


def _begins_with(prefix: str) -> Callable[[str], bool]:
    return lambda text: " ".join(text.split()).startswith(prefix)
