"""Statistics of a long text: its words, its discourse and its lines (report §3.1.3; features after LongWanjuan).

They are stable on long text and noise on a short one (20 words against 32K), so short documents are refused. They are
there to take out what means nothing, not to choose the best.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from statistics import fmean, median, pstdev
from typing import Any

from tokenmill.curation.document import Document, share
from tokenmill.errors import InputError

MIN_BYTES = 32 * 1024
"""From where on a document is long: more than 32 KiB of UTF-8 (report)."""
SEGMENT = 1000
"""Words (Chinese: characters) over which one type-token ratio is taken: over a whole text it falls with its length."""

Statistics = dict[str, float]
_WORD = re.compile(r"[a-z]+(?:['’][a-z]+)?")


def long_statistics(text: str, lang: str, min_bytes: int = MIN_BYTES) -> Statistics:
    """What the filters look at, by name (see `STATISTICS`).

    Raises:
        InputError: the text is no longer than `min_bytes`.
    """
    if (size := len(text.encode())) <= min_bytes:
        raise InputError(f"a text of {size} bytes is too short for these statistics: they need more than {min_bytes}")
    doc = Document(text, lang)
    discourse = _chinese_discourse(text) if lang == "zh" else _english_discourse(text)
    return {name: round(value, 6) for name, value in (_words(doc) | discourse | _lines(text)).items()}


STATISTICS = (
    *("type_token_ratio", "segment_ttr", "connective_rate", "connective_variety", "pronoun_rate", "alphabetic_share"),
    *("line_mean", "line_std", "line_median", "line_max", "line_min"),
    *("newline_rate", "comma_rate", "space_rate", "bar_rate"),
)


def _words(doc: Document) -> Statistics:
    units = doc.units
    whole = range(0, max(len(units) - SEGMENT + 1, 1), SEGMENT)
    return {
        "type_token_ratio": share(len(set(units)), len(units)),
        "segment_ttr": fmean(share(len(set(part)), len(part)) for part in (units[i : i + SEGMENT] for i in whole)),
        "alphabetic_share": doc.alphabetic_share,
    }


def _lines(text: str) -> Statistics:
    """Lengths of the lines that are not empty, in characters; how often a sign stands among all characters."""
    lengths = [len(line) for raw in text.split("\n") if (line := raw.strip())] or [0]
    found = {"line_mean": fmean(lengths), "line_std": pstdev(lengths), "line_median": median(lengths)}
    found |= {"line_max": max(lengths), "line_min": min(lengths)}
    signs = {"newline": "\n", "comma": ",，", "space": " ", "bar": "|"}
    return found | {f"{name}_rate": share(sum(map(text.count, sign)), len(text)) for name, sign in signs.items()}


def _english_discourse(text: str) -> Statistics:
    """Connectives by characters, each counted in the longest one that it is part of; pronouns by words."""
    words = _WORD.findall(text.lower().replace("’", "'"))
    n_pronouns = sum(n for word, n in Counter(words).items() if word in set(_listed("pronouns_en")))
    # two spaces between words, so that neighbours can both be replaced
    line = f" {'  '.join(words)} "
    characters, kinds = 0, 0
    phrases = [c for c in _listed("connectives_en") if " " in c]
    for phrase in sorted(phrases, key=len, reverse=True):
        spaced = f" {phrase.replace(' ', '  ')} "
        if times := line.count(spaced):
            characters, kinds = characters + times * len(phrase), kinds + 1
            line = line.replace(spaced, " \0 ")
    counts = Counter(line.split())
    for word in _listed("connectives_en"):
        if times := counts[word]:
            characters, kinds = characters + times * len(word), kinds + 1
    return {
        "connective_rate": share(characters, len(text)),
        "connective_variety": kinds,
        "pronoun_rate": share(n_pronouns, len(words)),
    }


def _chinese_discourse(text: str) -> Statistics:
    """Connectives and pronouns by characters, the longest one at each place."""
    connectives = Counter(_searcher("connectives_zh")(text))
    characters = sum(len(word) * times for word, times in connectives.items())
    return {
        "connective_rate": share(characters, len(text)),
        "connective_variety": len(connectives),
        "pronoun_rate": share(len(_searcher("pronouns_zh")(text)), len(text)),
    }


@cache
def _searcher(name: str) -> Callable[[str], Sequence[str]]:
    from ahocorasick_rs import AhoCorasick, MatchKind

    found: Any = AhoCorasick(_listed(name), matchkind=MatchKind.LeftmostLongest)
    return found.find_matches_as_strings


@cache
def _listed(name: str) -> list[str]:
    """The words of lists/<name>.txt."""
    text = resources.files("tokenmill.curation").joinpath("lists", f"{name}.txt").read_text("utf-8")
    return [line for raw in text.splitlines() if (line := raw.strip()) and not line.startswith("#")]
