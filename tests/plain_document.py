"""The statistics of a document in plain Python: the oracle of the compiled ones."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property

_WORD = re.compile(r"\S+")
_PARAGRAPHS = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"[.!?。！？…](?=[\s\"'”’」』)）]|$|[^\x00-\x7f])")
_HAN = re.compile(r"[㐀-䶿一-鿿\uf900-\ufaff\U00020000-\U0002ebef]")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~‐-⁞、-〟＀-／：-＠［-｠]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060\ufeff]")
# UTF-8 read as Latin-1 or GBK: 'Ã©', 'â€™', '锟斤拷'
_MOJIBAKE = re.compile(r"[ÃÂ][\x80-\xbf]|â€[\x80-\xbf™œ\x9d“”˜]|锟斤拷|ï¿½")
BULLETS = ("•", "‣", "●", "○", "■", "□", "▪", "▫", "–", "- ", "* ", "· ")
ELLIPSES = ("...", "…", "。。。")


class PlainDocument:
    """A text with a language and the statistics of both; `units` are words, in Chinese characters."""

    def __init__(self, text: str, lang: str = "en") -> None:
        self.text = text
        self.lang = lang

    @cached_property
    def words(self) -> list[str]:
        return _WORD.findall(self.text)

    @cached_property
    def tokens(self) -> list[str]:
        """Lower-cased words without the punctuation around them."""
        stripped = (word.strip("\"'“”‘’.,;:!?()[]{}<>*_#`~-—…").lower() for word in self.words)
        return [token for token in stripped if token]

    @cached_property
    def characters(self) -> str:
        """The text without white space."""
        return "".join(self.words)

    @property
    def units(self) -> Sequence[str]:
        return self.characters if self.lang == "zh" else self.tokens

    @cached_property
    def lines(self) -> list[str]:
        return [line for line in (raw.strip() for raw in self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [p for p in (raw.strip() for raw in _PARAGRAPHS.split(self.text)) if p]

    @cached_property
    def n_sentences(self) -> int:
        return len(_SENTENCE_END.findall(self.text))

    @cached_property
    def mean_word_length(self) -> float:
        return share(sum(map(len, self.words)), len(self.words))

    @cached_property
    def han_share(self) -> float:
        """Han characters among all characters that are not white space."""
        return share(len(_HAN.findall(self.text)), len(self.characters))

    @cached_property
    def punctuation_share(self) -> float:
        return share(len(_PUNCTUATION.findall(self.text)), len(self.characters))

    @cached_property
    def alphabetic_share(self) -> float:
        return share(sum(map(str.isalpha, self.characters)), len(self.characters))

    @cached_property
    def control_share(self) -> float:
        return share(len(_CONTROL.findall(self.text)), len(self.text))

    @cached_property
    def replacement_share(self) -> float:
        return share(self.text.count("�"), len(self.text))

    @cached_property
    def mojibake_share(self) -> float:
        return share(2 * len(_MOJIBAKE.findall(self.text)), len(self.text))

    @cached_property
    def unique_share(self) -> float:
        return share(len(set(self.units)), len(self.units))

    def lines_that(self, test: Callable[[str], object]) -> float:
        """Share of lines for which `test` holds."""
        return share(sum(bool(test(line)) for line in self.lines), len(self.lines))

    def repeated(self, parts: list[str]) -> tuple[float, float]:
        """(share of parts that repeat an earlier one, share of characters in them)."""
        extra = {part: n - 1 for part, n in Counter(parts).items() if n > 1}
        repeated_characters = sum(len(part) * n for part, n in extra.items())
        return share(sum(extra.values()), len(parts)), share(repeated_characters, sum(map(len, parts)))

    def ngrams(self, n: int) -> list[tuple[str, ...]]:
        units = self.units
        return list(zip(*(units[i:] for i in range(n)), strict=False))

    def top_ngram_share(self, n: int) -> float:
        """Share of characters in the occurrences of the most frequent n-gram (0 if nothing occurs twice)."""
        counts = Counter(self.ngrams(n))
        if not counts:
            return 0.0
        # among equally frequent n-grams the longest, so that the answer does not hang on the order of words
        gram, times = max(counts.items(), key=lambda item: (item[1], sum(map(len, item[0]))))
        return share(sum(map(len, gram)) * times, self._n_unit_characters) if times > 1 else 0.0

    def duplicate_ngram_share(self, n: int) -> float:
        """Share of characters that lie in an n-gram seen before, no character counted twice (Gopher, A.1)."""
        units = self.units
        seen: set[tuple[str, ...]] = set()
        characters = covered_to = 0
        for i, gram in enumerate(self.ngrams(n)):
            if gram in seen:
                start = max(i, covered_to)
                characters += sum(map(len, units[start : i + n]))
                covered_to = i + n
            seen.add(gram)
        return share(characters, self._n_unit_characters)

    @cached_property
    def _n_unit_characters(self) -> int:
        return sum(map(len, self.units))


def first_failure(measure: Callable[[int], float], high: tuple[float, ...], start: int) -> float:
    value = 0.0
    for n, limit in enumerate(high, start):
        value = measure(n)
        if value > limit:
            break
    return value


def duplicate_lines(doc: PlainDocument) -> float:
    lines, characters = doc.repeated(doc.lines)
    return lines if lines > 0.30 else characters


STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
PLACEHOLDER = re.compile(r"lorem ipsum|(?:enable|requires?|turn on|启用|开启)\s*javascript", re.IGNORECASE)

RULE_VALUES: dict[str, Callable[[PlainDocument], float]] = {
    "length": lambda d: len(d.units),
    "mean_word_length": lambda d: d.mean_word_length,
    "mean_token_length": lambda d: share(sum(map(len, d.units)), len(d.units)),
    "alphabetic_words": lambda d: share(sum(any(map(str.isalpha, w)) for w in d.words), len(d.words)),
    "alphabetic_tokens": lambda d: share(sum(any(map(str.isalpha, w)) for w in d.words), len(d.tokens)),
    "stop_words": lambda d: len(STOP_WORDS & set(d.tokens)),
    "sentences": lambda d: d.n_sentences,
    "han_share": lambda d: d.han_share,
    "symbols": lambda d: share(d.text.count("#") + sum(map(d.text.count, ELLIPSES)), len(d.units)),
    "hash_signs": lambda d: share(d.text.count("#"), len(d.units)),
    "ellipses": lambda d: share(sum(map(d.text.count, ELLIPSES)), len(d.units)),
    "curly_brackets": lambda d: d.text.count("{"),
    "replacement_characters": lambda d: d.replacement_share,
    "control_characters": lambda d: d.control_share,
    "mojibake": lambda d: d.mojibake_share,
    "punctuation": lambda d: d.punctuation_share,
    "alphabetic_characters": lambda d: d.alphabetic_share,
    "white_space": lambda d: share(sum(map(str.isspace, d.text)), len(d.text)),
    "blank_run": lambda d: max((run.count("\n") for run in re.findall(r"\s+", d.text)), default=0),
    "separator_runs": lambda d: share(
        sum(len(run[0]) for run in re.finditer(r"([-=_*#~+.·•—–─━═|/\\])\1{3,}", d.text)), len(d.characters)
    ),
    "strange_characters": lambda d: share(
        sum(
            unicodedata.category(c) in ("Cs", "Co") or ord(c) & 0xFFFE == 0xFFFE or "\ufdd0" <= c <= "\ufdef"
            for c in d.text
        ),
        len(d.text),
    ),
    "terminal_punctuation": lambda d: len(re.findall(r"[.!?。！？．｡؟۔।॥‼⁇⁈⁉]", d.text)),
    "bullet_lines": lambda d: d.lines_that(lambda line: line.startswith(BULLETS)),
    "ellipsis_lines": lambda d: d.lines_that(lambda line: line.endswith(ELLIPSES)),
    "line_punctuation": lambda d: d.lines_that(lambda line: re.search(r"[.!?。！？．｡؟۔।॥‼⁇⁈⁉]\Z", line)),
    "short_lines": lambda d: d.lines_that(lambda line: len(line.split()) < 3),
    "short_line_characters": lambda d: d.lines_that(lambda line: len(line) <= 30),
    "long_lines": lambda d: sum(len(line) >= 200 for line in d.lines),
    "line_breaks": lambda d: share(d.text.count("\n"), len(d.units)),
    "longest_line": lambda d: max(map(len, d.lines), default=0),
    "mean_line_length": lambda d: share(sum(map(len, d.lines)), len(d.lines)),
    "placeholder_page": lambda d: bool(PLACEHOLDER.search(d.text)),
    "duplicate_lines": duplicate_lines,
    "duplicate_line_characters": lambda d: d.repeated(d.lines)[1],
    "duplicate_paragraphs": lambda d: d.repeated(d.paragraphs)[0],
    "duplicate_paragraph_characters": lambda d: d.repeated(d.paragraphs)[1],
    "unique_words": lambda d: d.unique_share,
    "top_ngrams": lambda d: first_failure(d.top_ngram_share, (0.20, 0.18, 0.16), 2),
    "duplicate_ngrams": lambda d: first_failure(d.duplicate_ngram_share, (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), 5),
}
"""What each rule measures at its own thresholds."""


def share(part: float, whole: float) -> float:
    """part / whole, and 0 of nothing."""
    return part / whole if whole else 0.0
