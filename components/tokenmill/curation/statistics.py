"""The statistics that WanJuan-CC publishes of its documents (spec 1.2.2), one tuple a document.

They are what a rule set is tuned by: a rule is right when it cuts the tail of a distribution and leaves the hump.
"""

from typing import NamedTuple

from tokenmill.curation.document import Document, share

LONGEST = 50_000
"""Characters of a document that are looked at; its length is exact."""

_STOP_WORDS = """
    a about above after again against all also am an and any are aren't as at be because been before being below
    between both but by can cannot can't could couldn't did didn't do does doesn't doing don't down during each either
    else ever every few for from further had hadn't has hasn't have haven't having he her here hers herself him himself
    his how however i i'd i'll i'm i've if in into is isn't it it's its itself just let's like may me might more most
    much must my myself no nor not now of off on once one only or other our ours ourselves out over own shall she
    should shouldn't since so some such than that that's the their theirs them themselves then there these they they're
    this those though through thus till to too under until up upon us very was wasn't we were weren't what when where
    whether which while who whom whose why will with within without won't would wouldn't yet you your yours
    yourself yourselves
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""English words of the closed classes: articles, pronouns, prepositions, conjunctions, auxiliaries (ours)."""


class Statistics(NamedTuple):
    """Of one document. `None` where the idea does not apply: Chinese has no spaces between words."""

    characters: float
    lines: float
    words: float  # characters that are not white space, in Chinese
    sentences: float
    non_alphabetic: float  # of all characters, white space included
    unique_words: float
    mean_word_length: float | None
    stop_words: float | None
    symbols: float  # '#' and ellipses a word


class Shape(NamedTuple):
    """How a statistic is drawn: the range of its bins, and where WanJuan-CC has its mode, if it says."""

    key: str
    title: str
    low: float
    high: float
    log: bool = False
    mode: float | None = None


SHAPES = (
    Shape("characters", "characters", 10, 1_000_000, log=True),
    Shape("lines", "lines", 1, 10_000, log=True),
    Shape("words", "words", 1, 100_000, log=True),
    Shape("sentences", "sentences", 1, 10_000, log=True),
    Shape("non_alphabetic", "non-letters", 0, 1, mode=0.21),
    Shape("unique_words", "unique words", 0, 1, mode=0.63),
    Shape("mean_word_length", "mean word length", 0, 15, mode=4.7),
    Shape("stop_words", "stop words", 0, 1, mode=0.43),
    Shape("symbols", "symbols a word", 0, 0.25, mode=0.0),
)


def statistics(text: str, lang: str) -> Statistics:
    """The nine numbers of a document, counted on its first `LONGEST` characters."""
    doc = Document(text[:LONGEST], lang)
    n_words, chinese = doc.n_units, lang == "zh"
    return Statistics(
        characters=len(text),
        lines=doc.counts.lines,
        words=n_words,
        sentences=doc.n_sentences,
        non_alphabetic=1 - share(doc.alphabetic_share * doc.n_characters, len(doc.text)),
        unique_words=doc.unique_share,
        mean_word_length=None if chinese else doc.mean_word_length,
        stop_words=None if chinese else share(sum(token in STOP_WORDS for token in doc.tokens), n_words),
        symbols=share(doc.counts.hashes + doc.counts.ellipses, n_words),
    )
