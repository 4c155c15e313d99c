"""Instructions that a program can check: the 25 kinds of IFEval (Zhou et al. 2023), strict and loose.

Names and parameters are those of its public list, so that its file of prompts can be read as it is. Where its script
needs other libraries we count differently: sentences and capital words by the rules here, languages by py3langid.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Check = Callable[..., bool]
CHECKS: dict[str, Check] = {}
"""Name of a kind → whether a response follows it, given its parameters."""


def _kind(name: str) -> Callable[[Check], Check]:
    def keep(check: Check) -> Check:
        CHECKS[name] = check
        return check

    return keep


def follows(name: str, response: str, **parameters: Any) -> bool:
    """Whether a response follows one instruction; an empty one follows none. KeyError for an unknown kind."""
    given = {key: value for key, value in parameters.items() if value is not None}
    return bool(response.strip()) and CHECKS[name](response, **given)


def follows_loosely(name: str, response: str, **parameters: Any) -> bool:
    """As `follows`, for any of eight readings: with or without its first line, its last, and the asterisks of Markdown."""
    lines = response.split("\n")
    trimmed = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return any(follows(name, one, **parameters) for text in trimmed for one in (text, text.replace("*", "")))


class Accuracies(NamedTuple):
    """IFEval's four numbers."""

    prompt_strict: float
    instruction_strict: float
    prompt_loose: float
    instruction_loose: float

    @property
    def mean(self) -> float:
        """What the report gives (Table 17)."""
        return sum(self) / 4


def accuracies(strict: Sequence[Sequence[bool]], loose: Sequence[Sequence[bool]]) -> Accuracies:
    """Shares of prompts with every instruction followed, and of instructions, from a row of verdicts a prompt."""

    def shares(rows: Sequence[Sequence[bool]]) -> tuple[float, float]:
        return sum(map(all, rows)) / len(rows), sum(map(sum, rows)) / sum(map(len, rows))

    return Accuracies(*shares(strict), *shares(loose))


def _compares(count: int, relation: str, than: int) -> bool:
    return {"less than": count < than, "at least": count >= than}[relation]


# ---- keywords --------------------------------------------------------------------------------------------------------


def _times(keyword: str, response: str) -> int:
    return len(re.findall(re.escape(keyword), response, re.IGNORECASE))


@_kind("keywords:existence")
def _existence(response: str, keywords: Sequence[str]) -> bool:
    return all(_times(keyword, response) for keyword in keywords)


@_kind("keywords:frequency")
def _frequency(response: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compares(_times(keyword, response), relation, frequency)


@_kind("keywords:forbidden_words")
def _forbidden(response: str, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", response, re.IGNORECASE) for word in forbidden_words)


@_kind("keywords:letter_frequency")
def _letters(response: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compares(response.lower().count(letter.lower()), let_relation, let_frequency)


# ---- language and case -----------------------------------------------------------------------------------------------


def language_of(text: str) -> str | None:
    """ISO 639-1; None where there is no letter to tell it by. Case does not count."""
    if not any(map(str.isalpha, text)):
        return None
    from py3langid import classify

    return str(classify(text.lower())[0])


@_kind("language:response_language")
def _language(response: str, language: str) -> bool:
    return language_of(response) in (language, None)


@_kind("change_case:english_capital")
def _capital(response: str) -> bool:
    return response.isupper() and language_of(response) in ("en", None)


@_kind("change_case:english_lowercase")
def _lowercase(response: str) -> bool:
    return response.islower() and language_of(response) in ("en", None)


_WORD_OF_CASE = re.compile(
    r"(?:\w\.){2,}\w?|\w+?(?=n['’]t\b)|n['’]t\b|['’](?:s|m|d|ll|re|ve)\b|\w+(?:[-&/]\w+)*", re.IGNORECASE
)


@_kind("change_case:capital_word_frequency")
def _capital_words(response: str, capital_frequency: int, capital_relation: str) -> bool:
    """A hyphened word is one, an abbreviation too; a contraction is two (Penn Treebank's rules)."""
    return _compares(sum(map(str.isupper, _WORD_OF_CASE.findall(response))), capital_relation, capital_frequency)


# ---- length ----------------------------------------------------------------------------------------------------------

_ABBREVIATIONS = (
    "mr|mrs|ms|dr|prof|sr|jr|st|mt|vs|etc|inc|ltd|co|corp|dept|est|fig|no|vol|approx|e\\.g|i\\.e|a\\.m|p\\.m|ph\\.d"
)
_NO_END = re.compile(rf"(?:\b(?:{_ABBREVIATIONS})|\b[A-Za-z]|(?:\b[A-Za-z]\.)+[A-Za-z])\.$", re.IGNORECASE)
_END = re.compile(r"(?:[.!?…]+[\"'”’)\]*]*(?=\s|$)|[。！？]+[”’」』）]*)")


def sentences(text: str) -> list[str]:
    """Sentences by their ends: a full stop, question or exclamation mark before white space; Chinese marks anywhere.

    No end is a stop after an abbreviation or an initial, or before a small letter. What is left at the end is a sentence
    too, however it ends.
    """
    found, start = [], 0
    for end in _END.finditer(text):
        so_far = text[start : end.end()]
        ends_lower = text[end.end() :].lstrip()[:1].islower()
        if end[0][0] in ".…" and (_NO_END.search(so_far.rstrip()) or ends_lower):
            continue
        found.append(so_far.strip())
        start = end.end()
    return [sentence for sentence in [*found, text[start:].strip()] if re.search(r"\w", sentence)]


@_kind("length_constraints:number_sentences")
def _number_sentences(response: str, num_sentences: int, relation: str) -> bool:
    return _compares(len(sentences(response)), relation, num_sentences)


@_kind("length_constraints:number_words")
def _number_words(response: str, num_words: int, relation: str) -> bool:
    return _compares(len(re.findall(r"\w+", response)), relation, num_words)


@_kind("length_constraints:number_paragraphs")
def _paragraphs(response: str, num_paragraphs: int) -> bool:
    """Between `***`; an empty one is none at the border and a fault elsewhere."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", response)]
    parts = parts[not parts[0] :]
    parts = parts[: len(parts) - (bool(parts) and not parts[-1])]
    return all(parts) and len(parts) == num_paragraphs


@_kind("length_constraints:nth_paragraph_first_word")
def _first_word(response: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Between empty lines: as many as wanted, and the nth begins with the word, quotation marks and case aside."""
    parts = response.split("\n\n")
    if sum(map(bool, map(str.strip, parts))) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    begins = parts[nth_paragraph - 1].split()[:1]
    return bool(begins) and re.split(r"[.,?!'\"]", begins[0].lstrip("'").lstrip('"'))[0].lower() == first_word.lower()


# ---- content and format ----------------------------------------------------------------------------------------------


@_kind("detectable_content:number_placeholders")
def _placeholders(response: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", response)) >= num_placeholders


@_kind("detectable_content:postscript")
def _postscript(response: str, postscript_marker: str) -> bool:
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(known.get(postscript_marker) or re.escape(postscript_marker.lower()), response.lower()))


@_kind("detectable_format:number_bullet_lists")
def _bullets(response: str, num_bullets: int) -> bool:
    starred, dashed = (re.findall(rf"^\s*{item}.*$", response, re.MULTILINE) for item in (r"\*[^*]", "-"))
    return len(starred) + len(dashed) == num_bullets


@_kind("detectable_format:constrained_response")
def _constrained(response: str) -> bool:
    return any(f"My answer is {word}." in response for word in ("yes", "no", "maybe"))


@_kind("detectable_format:number_highlighted_sections")
def _highlights(response: str, num_highlights: int) -> bool:
    """`*so*` and `**so**`."""
    found = [*re.findall(r"\*([^\n*]*)\*", response), *re.findall(r"\*\*([^\n*]*)\*\*", response)]
    return sum(map(bool, map(str.strip, found))) >= num_highlights


@_kind("detectable_format:multiple_sections")
def _sections(response: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{re.escape(section_spliter)}\s?\d+\s?", response)) >= num_sections


@_kind("detectable_format:json_format")
def _json(response: str) -> bool:
    """Nothing but JSON, in a fence or without."""
    try:
        json.loads(re.sub(r"^```(?:json)?|```$", "", response.strip(), flags=re.IGNORECASE).strip())
    except ValueError:
        return False
    return True


@_kind("detectable_format:title")
def _title(response: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", response))


# ---- the rest --------------------------------------------------------------------------------------------------------


@_kind("combination:two_responses")
def _two(response: str) -> bool:
    """Two different ones between `******`; an empty one only at the border."""
    parts = [part.strip() for part in response.split("******")]
    return all(parts[1:-1]) and len(said := list(filter(None, parts))) == 2 and said[0] != said[1]


@_kind("combination:repeat_prompt")
def _repeat(response: str, prompt_to_repeat: str) -> bool:
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


@_kind("startend:end_checker")
def _end(response: str, end_phrase: str) -> bool:
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@_kind("startend:quotation")
def _quotation(response: str) -> bool:
    text = response.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


@_kind("punctuation:no_comma")
def _no_comma(response: str) -> bool:
    return "," not in response
