"""Rules: what a clean document looks like, one idea a function, each with its source and its number.

The families are the report's (§3.1.1): anomalies of separation and line breaks, frequency of abnormal characters,
distribution of punctuation marks. Its own rules and thresholds are unpublished; the numbers here are Gopher's (Rae et
al. 2021, A.1), C4's (Raffel et al. 2020), The Stack's (Kocetkov et al. 2022), FineWeb's (Penedo et al. 2024) and,
where none exists, ours (so marked).

A rule set (`rules/<lang>_<type>.yaml`) names the normalisers that modify and, in order, the rules that drop. The
first rule that a document fails is its reason.
"""

import difflib
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from tokenmill.curation.document import Document, share
from tokenmill.curation.normalisers import NORMALISERS, Normaliser, normalise
from tokenmill.errors import ConfigError


class Verdict(NamedTuple):
    """Whether a document passes a rule, what was measured and what was allowed."""

    keep: bool
    measured: float
    low: float
    high: float

    @property
    def value(self) -> float:
        return round(self.measured, 4)

    @property
    def threshold(self) -> str:
        return " and ".join(
            [f"≥ {self.low:g}"] * (self.low > -math.inf) + [f"≤ {self.high:g}"] * (self.high < math.inf)
        )


T = TypeVar("T")
Rule = Callable[..., Verdict]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    """Register a dropping rule under its name; its keyword parameters are its thresholds."""
    RULES[function.__name__] = function
    return function


def within(value: float, low: float = -math.inf, high: float = math.inf) -> Verdict:
    return Verdict(low <= value <= high, value, low, high)


# --- length and words ------------------------------------------------------------------------------------------------


@rule
def length(doc: Document, low: int = 50, high: int = 100_000) -> Verdict:
    """Gopher: 50 to 100,000 words; in Chinese, characters."""
    return within(doc.n_units, low, high)


@rule
def mean_word_length(doc: Document, low: float = 3.0, high: float = 10.0) -> Verdict:
    """Gopher: natural English averages 3 to 10 characters a word."""
    return within(doc.mean_word_length, low, high)


@rule
def mean_token_length(doc: Document, low: float = 3.0, high: float = 10.0) -> Verdict:
    """Gopher's 3 to 10, of words without the punctuation around them (ours): a dash has no weight."""
    return within(share(doc.n_unit_characters, doc.n_units), low, high)


@rule
def alphabetic_words(doc: Document, low: float = 0.8) -> Verdict:
    """Gopher: at least 80% of the words hold a letter."""
    return within(share(doc.counts.lettered_words, doc.counts.words), low)


@rule
def alphabetic_tokens(doc: Document, low: float = 0.8) -> Verdict:
    """Gopher's 80%, of words that are more than punctuation (ours)."""
    return within(share(doc.counts.lettered_words, doc.counts.tokens), low)


@rule
def stop_words(doc: Document, low: int = 2) -> Verdict:
    """Gopher: at least two different words of the, be, to, of, and, that, have, with."""
    return within(doc.n_stop_words, low)


@rule
def sentences(doc: Document, low: int = 3) -> Verdict:
    """C4: at least three sentences."""
    return within(doc.n_sentences, low)


@rule
def han_share(doc: Document, low: float = 0.5) -> Verdict:
    """A Chinese document is at least half Han characters (ours)."""
    return within(doc.han_share, low)


# --- abnormal characters and punctuation -----------------------------------------------------------------------------


@rule
def symbols(doc: Document, high: float = 0.1) -> Verdict:
    """Gopher: at most one '#' or ellipsis in ten words."""
    return within(share(doc.counts.hashes + doc.counts.ellipses, doc.n_units), high=high)


@rule
def hash_signs(doc: Document, high: float = 0.1) -> Verdict:
    """Gopher, its '#' alone: at most one in ten words."""
    return within(share(doc.counts.hashes, doc.n_units), high=high)


@rule
def ellipses(doc: Document, high: float = 0.1) -> Verdict:
    """Gopher, its ellipsis alone: at most one in ten words."""
    return within(share(doc.counts.ellipses, doc.n_units), high=high)


@rule
def curly_brackets(doc: Document, high: int = 0) -> Verdict:
    """C4: a page with a curly bracket is code, or a template that was not filled in."""
    return within(doc.counts.curly, high=high)


@rule
def replacement_characters(doc: Document, high: float = 0.001) -> Verdict:
    """At most one U+FFFD, the scar of a wrong decoding, in a thousand characters (ours)."""
    return within(doc.replacement_share, high=high)


@rule
def control_characters(doc: Document, high: float = 0.01) -> Verdict:
    """Control and zero-width characters are at most 1% (ours)."""
    return within(doc.control_share, high=high)


@rule
def mojibake(doc: Document, high: float = 0.005) -> Verdict:
    """UTF-8 that was read as Latin-1 or GBK ('â€™', '锟斤拷') is at most 0.5% (ours)."""
    return within(doc.mojibake_share, high=high)


@rule
def strange_characters(doc: Document, high: float = 0.001) -> Verdict:
    """Private use, non-characters and halves of surrogate pairs are at most one in a thousand characters (ours)."""
    return within(share(doc.counts.strange, len(doc.text)), high=high)


@rule
def white_space(doc: Document, high: float = 0.4) -> Verdict:
    """More than 40% white space is a layout, not a text: prose has a fifth (ours)."""
    return within(share(doc.counts.white, len(doc.text)), high=high)


@rule
def separator_runs(doc: Document, high: float = 0.05) -> Verdict:
    """Runs of four or more equal separators (====, ----, ......) are at most 5% of the characters (ours)."""
    return within(share(doc.counts.separators, doc.n_characters), high=high)


@rule
def blank_run(doc: Document, high: int = 4) -> Verdict:
    """At most four line breaks in a row: more is a page whose content was lost between them (ours)."""
    return within(doc.counts.blank_run, high=high)


@rule
def terminal_punctuation(doc: Document, low: int = 1) -> Verdict:
    """A text without any . ! ? or their Chinese forms is a list or a cloud of words (ours)."""
    return within(doc.counts.terminals, low)


@rule
def punctuation(doc: Document, low: float = 0.001, high: float = 0.3) -> Verdict:
    """Prose has punctuation, and more than 30% of it is a table or line noise (ours)."""
    return within(doc.punctuation_share, low, high)


@rule
def alphabetic_characters(doc: Document, low: float = 0.25) -> Verdict:
    """The Stack (Kocetkov et al. 2022): at least a quarter of a code file's characters are letters."""
    return within(doc.alphabetic_share, low)


# --- lines -----------------------------------------------------------------------------------------------------------


@rule
def bullet_lines(doc: Document, high: float = 0.9) -> Verdict:
    """Gopher: at most 90% of the lines start with a bullet."""
    return within(share(doc.counts.bullet_lines, doc.counts.lines), high=high)


@rule
def ellipsis_lines(doc: Document, high: float = 0.3) -> Verdict:
    """Gopher: at most 30% of the lines end with an ellipsis."""
    return within(share(doc.counts.ellipsis_lines, doc.counts.lines), high=high)


@rule
def bullet_lines_in_text(doc: Document, high: float = 0.9) -> Verdict:
    """Gopher's 90%, as datatrove counts them: among all lines, the empty ones too."""
    return within(share(doc.counts.bullet_lines, doc.counts.line_feeds + 1), high=high)


@rule
def ellipsis_lines_in_text(doc: Document, high: float = 0.3) -> Verdict:
    """Gopher's 30%, as datatrove counts them: among all lines, the empty ones too."""
    return within(share(doc.counts.ellipsis_lines, doc.counts.line_feeds + 1), high=high)


@rule
def short_lines(doc: Document, high: float = 0.67, words: int = 3) -> Verdict:
    """Menus: at most 67% of the lines have fewer than three words (FineWeb, Penedo et al. 2024, by characters)."""
    return within(doc.lines_below(words), high=high)


@rule
def longest_line(doc: Document, high: int = 1000) -> Verdict:
    """The Stack: a code line above 1,000 characters is data or minified."""
    return within(int(doc.line_lengths.max(initial=0)), high=high)


@rule
def mean_line_length(doc: Document, low: float = -math.inf, high: float = 100) -> Verdict:
    """The Stack: code lines average at most 100 characters."""
    return within(share(int(doc.line_lengths.sum()), len(doc.line_lengths)), low, high)


@rule
def short_line_characters(doc: Document, high: float = 0.67, characters: int = 30) -> Verdict:
    """FineWeb: at most 67% of the lines have 30 characters or fewer."""
    return within(share(int((doc.line_lengths <= characters).sum()), len(doc.line_lengths)), high=high)


@rule
def line_punctuation(doc: Document, low: float = 0.12) -> Verdict:
    """FineWeb: at least 12% of the lines end in a terminal punctuation mark."""
    return within(share(doc.counts.terminal_lines, doc.counts.lines), low)


@rule
def line_breaks(doc: Document, high: float = 0.3) -> Verdict:
    """FineWeb: at most three line breaks in ten words (in Chinese: characters); more is a list."""
    return within(share(doc.counts.line_feeds, doc.n_units), high=high)


@rule
def long_lines(doc: Document, low: int = 3, characters: int = 200) -> Verdict:
    """mC4 (Xue et al. 2021): at least three lines of 200 characters."""
    return within(int((doc.line_lengths >= characters).sum()), low)


_WANTS_SCRIPT = re.compile(r"(?:enable|requires?|turn on|启用|开启)\s*javascript", re.IGNORECASE)


@rule
def placeholder_page(doc: Document) -> Verdict:
    """C4: 'lorem ipsum' and 'enable javascript' pages are not content."""
    found = doc.counts.javascript > 0 and bool(_WANTS_SCRIPT.search(doc.text))
    return within(float(found or doc.counts.lorem_ipsum > 0), high=0)


# --- repetition ------------------------------------------------------------------------------------------------------


@rule
def duplicate_lines(doc: Document, high: float = 0.30, high_characters: float = 0.20) -> Verdict:
    """Gopher: at most 30% of the lines, and 20% of the characters, are in lines that occurred before."""
    lines, characters = doc.repeated_lines
    return within(lines, high=high) if lines > high else within(characters, high=high_characters)


@rule
def duplicate_paragraphs(doc: Document, high: float = 0.30) -> Verdict:
    """Gopher: at most 30% of the paragraphs occurred before."""
    return within(doc.repeated_paragraphs[0], high=high)


@rule
def duplicate_paragraph_characters(doc: Document, high: float = 0.20) -> Verdict:
    """Gopher: at most 20% of the characters are in paragraphs that occurred before."""
    return within(doc.repeated_paragraphs[1], high=high)


@rule
def duplicate_line_characters(doc: Document, high: float = 0.01) -> Verdict:
    """FineWeb: at most 1% of the characters are in lines that occurred before (Gopher: see `duplicate_lines`)."""
    return within(doc.repeated_lines[1], high=high)


@rule
def unique_words(doc: Document, low: float = 0.1) -> Verdict:
    """At least a tenth of the words are different ones (ours; WanJuan-CC's documents have 63% most often)."""
    return within(doc.unique_share, low)


@rule
def top_ngrams(doc: Document, high: tuple[float, ...] = (0.20, 0.18, 0.16)) -> Verdict:
    """Gopher: the most frequent 2-, 3- and 4-gram hold at most 20, 18 and 16% of the characters."""
    return _first_failure(doc.top_ngram_share, high, start=2)


@rule
def duplicate_ngrams(doc: Document, high: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)) -> Verdict:
    """Gopher: at most 15…10% of the characters are in 5- to 10-grams that occurred before."""
    return _first_failure(doc.duplicate_ngram_share, high, start=5)


@rule
def top_ngrams_in_text(doc: Document, high: tuple[float, ...] = (0.20, 0.18, 0.16)) -> Verdict:
    """Gopher's 20, 18 and 16%, as datatrove counts them: with spaces, among all characters of the text."""
    return _first_failure(lambda n: share(doc.top_ngram_characters(n, spaces=1), len(doc.text)), high, start=2)


@rule
def duplicate_ngrams_in_text(doc: Document, high: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)) -> Verdict:
    """Gopher's 15 to 10% of 5- to 10-grams, as datatrove counts them: among all characters of the text."""
    return _first_failure(lambda n: share(doc.duplicate_ngram_characters(n), len(doc.text)), high, start=5)


def _first_failure(measure: Callable[[int], float], high: tuple[float, ...], start: int) -> Verdict:
    value = limit = 0.0
    for n, limit in enumerate(high, start):
        value = measure(n)
        if value > limit:
            break
    return within(value, high=limit)


# --- rule sets -------------------------------------------------------------------------------------------------------

LANGUAGES = ("en", "zh", "any")
Overrides = Mapping[str, Mapping[str, Any] | bool]


@dataclass(frozen=True)
class RuleSet:
    """The normalisers and rules for one language and type of document."""

    name: str
    lang: str
    normalisers: tuple[Normaliser, ...]
    rules: tuple[tuple[str, Rule], ...]

    @classmethod
    def load(cls, name: str, overrides: Overrides | None = None) -> "RuleSet":
        """The set `name` in rules/; `overrides` change thresholds, add rules (`{}`) and remove them (`false`)."""
        if name not in built_in():
            raise ConfigError(f"unknown rule set {name!r}; built in are {', '.join(sorted(built_in()))}")
        return cls.parse(name, yaml.safe_load(built_in()[name]), overrides)

    @classmethod
    def parse(cls, name: str, tree: Mapping[str, Any], overrides: Overrides | None = None) -> "RuleSet":
        """Build a rule set from `{normalise: [...], drop: {rule: {threshold: value}}}`; unknown names are refused.

        Its language is the first part of its name (en_web), or what `lang:` says.
        """
        tree = _checked(name, tree)
        normalisers = tuple(_known("normaliser", n, NORMALISERS, name) for n in tree.get("normalise", ()))
        chosen = {rule_name: dict(thresholds or {}) for rule_name, thresholds in tree.get("drop", {}).items()}
        for rule_name, change in (overrides or {}).items():
            _known("rule", rule_name, RULES, name)
            if change is False:
                chosen.pop(rule_name, None)
            else:
                chosen[rule_name] = chosen.get(rule_name, {}) | dict(change if isinstance(change, Mapping) else {})
        rules = tuple((rule_name, _bind(rule_name, thresholds, name)) for rule_name, thresholds in chosen.items())
        lang = tree.get("lang", name.partition("_")[0])
        if lang not in LANGUAGES:
            raise ConfigError(
                f"rule set {name}: for which language? Say lang: {', '.join(LANGUAGES)}, or begin its name so"
            )
        return cls(name, lang, normalisers, rules)

    @classmethod
    def open(cls, reference: str) -> "RuleSet":
        """The set of that name in rules/ or rules/published/, or of a YAML file: its path.

        Raises:
            ConfigError: there is no such set or file, or it is not a rule set.
        """
        known = built_in() | built_in("published")
        if reference in known:
            return cls.parse(reference, yaml.safe_load(known[reference]))
        path = Path(reference)
        if path.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"unknown rule set {reference!r}; there are {', '.join(sorted(known))}, or a .yaml file")
        try:
            return cls.parse(path.stem, yaml.safe_load(path.read_text("utf-8")))
        except (OSError, UnicodeDecodeError) as failure:
            raise ConfigError(f"rule set {reference}: {getattr(failure, 'strerror', None) or 'not UTF-8'}") from None
        except yaml.YAMLError as failure:
            raise ConfigError(f"rule set {reference}: no YAML: {' '.join(str(failure).split())}") from None

    def normalise(self, text: str) -> str:
        return normalise(text, self.normalisers)

    def failure(self, text: str) -> tuple[str, Verdict] | None:
        """The first rule that the text fails, or None."""
        doc = Document(text, self.lang)
        for name, passes in self.rules:
            verdict = passes(doc)
            if not verdict.keep:
                return name, verdict
        return None


@cache
def built_in(shelf: str = "") -> dict[str, str]:
    """Name → YAML of the rule sets in rules/, which the filter uses; or of those in a folder there."""
    folder = resources.files("tokenmill.curation") / "rules" / shelf
    return {f.name.removesuffix(".yaml"): f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".yaml")}


def _checked(name: str, tree: Any) -> Mapping[str, Any]:
    """A rule set's tree, its shape made sure of."""
    shape: dict[str, type] = {"lang": str, "normalise": list, "drop": dict}
    if not isinstance(tree, Mapping):
        raise ConfigError(f"rule set {name}: expected a mapping with {', '.join(shape)}")
    for key, value in tree.items():
        _known("key", str(key), shape, name)
        if not isinstance(value, shape[key]):
            raise ConfigError(f"rule set {name}: {key} must be a {shape[key].__name__}, not {value!r}")
    for rule_name, thresholds in tree.get("drop", {}).items():
        if not isinstance(thresholds, Mapping | None):
            raise ConfigError(f"rule set {name}: {rule_name} needs thresholds as {{name: number}}, not {thresholds!r}")
    return tree


def _bind(name: str, thresholds: dict[str, Any], where: str) -> Rule:
    function = _known("rule", name, RULES, where)
    allowed = {p.name: p.default for p in inspect.signature(function).parameters.values() if p.name != "doc"}
    for threshold, value in thresholds.items():
        if threshold not in allowed:
            raise ConfigError(f"rule set {where}: {name} has no threshold {threshold!r}; it has {[*allowed] or 'none'}")
        several = isinstance(allowed[threshold], tuple)
        numbers = value if isinstance(value, list | tuple) else [value]
        fits = several == isinstance(value, list | tuple) and len(numbers) > 0
        if not fits or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            raise ConfigError(
                f"rule set {where}: {name}.{threshold} must be {'a list of numbers' if several else 'a number'}, "
                f"not {value!r}"
            )
    return partial(function, **thresholds)


def _known(what: str, name: str, known: Mapping[str, T], where: str) -> T:
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(f"rule set {where}: unknown {what} {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
