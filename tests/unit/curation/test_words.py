"""Word lists. Oracle: one regular expression of all the words, which decides the same a hundred times more slowly."""

import pickle
import random
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.curation.words import Substrings, WordList, fold

WordList(["ſ"]).find("ſ")  # makes the tables and fetches the passes, for which no example should wait


def whole_words(words: Iterable[str]) -> re.Pattern[str]:
    """Latin words match whole, entries with other letters anywhere; the longest first, white space of any length."""
    alternatives = []
    for word in sorted(set(words), key=lambda w: (-len(w), w)):
        literal = r"\s+".join(map(re.escape, word.split()))
        alternatives.append(rf"(?<!\w){literal}(?!\w)" if word.isascii() else literal)
    return re.compile("|".join(alternatives) or r"(?!)", re.IGNORECASE)


def by_regex(words: list[str], text: str) -> list[str]:
    return [" ".join(fold(hit).split()) for hit in whole_words(words).findall(text)]


WORDS = [
    "ass",
    "ass hat",
    "as",
    "buy viagra",
    "hat",
    "c++",
    "_x",
    "在线赌博",
    "赌博",
    "赌 场",
    "straße",
    "x线",
    "k",
    "İs",
    "ſad",
]
PIECES = ["ass", "ASS", "hat", "Hat", "as", " ", "  ", "\n", "\u3000", "\x1c", "c++", "+", "_", "x", "buy", "Viagra", "在线", "赌博",
          "赌", "场", "X线", "straße", "STRASSE", "STRAßE", "K", "\u212a", "ı", "İS", "is", "sad", "ſAD", "\u0345", "1", "é", "."]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.lists(st.sampled_from(WORDS), max_size=8))
def test_the_automaton_decides_as_the_regular_expression_does(text, words):
    assert WordList(words).find(text) == by_regex(words, text)


@given(
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.lists(st.sampled_from(WORDS), min_size=1, max_size=3)
)
def test_substrings_are_found_in_any_case(text, words):
    assert Substrings(words).any_in(text) == any(fold(word) in fold(text) for word in words)


@pytest.mark.parametrize(
    ("words", "text", "found"),
    [
        (["ass", "ass hat", "hat"], "an Ass\u3000hat, a hat", ["ass hat", "hat"]),
        (["ass hat", "hat"], "ass hatter hat", ["hat"]),
        (["赌博", "在线赌博"], "在线赌博", ["在线赌博"]),
        (["在线", "线赌", "赌博"], "在线赌博", ["在线", "赌博"]),
        (["big bad", "bad wolf"], "big bad wolf", ["big bad"]),
    ],
)
def test_at_one_place_the_longest_entry_is_found_and_none_overlaps(words, text, found):
    assert WordList(words).find(text) == found == by_regex(words, text)


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=4).filter(str.strip), max_size=6))
def test_so_it_does_on_any_text(text, words):
    words = [" ".join(word.split()) for word in words]
    assert bool(WordList(words).find(text)) == bool(whole_words(words).search(text))


def test_case_is_the_case_of_regular_expressions_for_every_letter():
    different = [c for c in map(chr, range(0x20000)) if fold(c) != c]
    assert len(different) > 1300 and {"İ", "ſ", "ı", "ς", "K"} <= set(different)
    for c in different:
        assert len(fold(c)) == 1
        assert re.fullmatch(re.escape(fold(c)), c, re.IGNORECASE), c


def test_tens_of_thousands_of_words_decide_as_the_regular_expression_does():
    rng = random.Random(1)
    syllables = ["ba", "co", "di", "fu", "ga", "he", "ji", "ko", "lu", "ma", "ne", "pi"]

    def word(n: int) -> str:
        return "".join(rng.choices(syllables, k=n))

    listed = sorted({word(4) + " " * rng.randint(0, 1) + word(2) for _ in range(40_000)})
    assert len(listed) > 36_289
    text = " ".join([*(word(rng.randint(2, 6)) for _ in range(2000)), listed[5], listed[-1].upper(), "x" + listed[9]])
    few = [entry for entry in listed if entry.split()[0] in text.lower()]  # all that can match, so that the oracle ends
    found = WordList(listed).find(text)
    assert found == by_regex(few, text)
    assert listed[5] in found and listed[-1] in found


def test_only_the_words_travel_to_other_processes():
    words = WordList(["ass", "在线赌博"])
    assert words.find("an Ass") == ["ass"]
    again = pickle.loads(pickle.dumps(words))
    assert again.find("an Ass") == ["ass"] and vars(again).keys() == {"words", "_rarest_words", "_automaton"}
    assert b"ahocorasick" not in pickle.dumps(words)


@pytest.mark.parametrize("words", [[], [" ", ""]])
def test_an_empty_list_finds_nothing(words):
    assert WordList(words).find("anything") == []
