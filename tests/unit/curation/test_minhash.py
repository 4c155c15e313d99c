"""Signatures and sets of n-grams. Oracle: the same sets by Python's own string methods and regular expressions."""

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.curation.minhash import EMPTY, hash_functions, jaccard, ngram_set, signatures
from tokenmill.curation.units import CHARACTERS, LEXEMES, TABLE_SIZE, WORDS, encoded, unit_table

KINDS = (WORDS, CHARACTERS, LEXEMES)
PUNCTUATION = re.compile(r"[\W_]+")
LEXEME = re.compile(r"\w+|[^\w\s]")


def shingles(text: str, kind: str, n: int) -> set[tuple[str, ...]]:
    """The set of n-grams, slowly."""
    if kind == LEXEMES:
        units: list[str] = LEXEME.findall(text)
    elif kind == CHARACTERS:
        units = list(PUNCTUATION.sub("", text.lower()))
    else:
        units = PUNCTUATION.sub(" ", text.lower()).split()
    return {tuple(units[i : i + n]) for i in range(len(units) - n + 1)}


def hashes(text: str, kind: str, n: int = 5) -> set[int]:
    return set(ngram_set(encoded(text, kind), kind, n).tolist())


SAMPLES = [
    "The quick brown fox, jumps over the lazy dog; while THE QUICK BROWN FOX JUMPS over_the lazy dog!",
    "Ὀδυσσεὺς ΣΟΦΟΣ σοφός, İstanbul'da ıslak ISTANBUL — naïve café Straße ǅ ŉ",
    "海水每天涨落两次，是因为月亮吸引着海水。满月和新月的时候，潮水最高；ABC 一个星期以后。",
    "def f(x):\n    if x_1 >= 0x10:\n\t\treturn x**2  # comment ✓\n  a.b[c]-=1",
    "𝒜𝒷 𠀀𠀁𠀂 😀😀 a😀b c d e f \ue000 \U0010fffd g h i",
    "one", "", "   ", "a b c d", "a b c d e", "\u200bzero\u200bwidth\u200b a b c d\x00e f",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_see_the_n_grams_that_python_sees(kind):
    for n in (1, 2, 5):
        for text in SAMPLES:
            expected, found = shingles(text, kind, n), hashes(text, kind, n)
            assert len(found) == len(expected), (n, text)
            for other in SAMPLES:
                assert len(found & hashes(other, kind, n)) == len(expected & shingles(other, kind, n)), (n, text, other)


@settings(max_examples=150)
@given(
    st.lists(
        st.sampled_from(["a", "B", "ß", "Σ", "σ", "_", " ", "\n", "7", "海", "İ", "é", "E\u0301", "-", "😀"]),
        max_size=60,
    ),
    st.lists(
        st.sampled_from(["a", "B", "ß", "Σ", "σ", "_", " ", "\n", "7", "海", "İ", "é", "E\u0301", "-", "😀"]),
        max_size=60,
    ),
    st.sampled_from(KINDS),
    st.integers(1, 3),
)
def test_any_two_texts_have_as_much_in_common_as_python_says(first, second, kind, n):
    one, other = "".join(first), "".join(second)
    assert len(hashes(one, kind, n) & hashes(other, kind, n)) == len(shingles(one, kind, n) & shingles(other, kind, n))
    assert len(hashes(one, kind, n)) == len(shingles(one, kind, n))


def test_the_tables_say_of_every_character_what_python_says():
    text = unit_table(WORDS)
    code = unit_table(LEXEMES)
    for point in range(0x110000):
        character = chr(point)
        if point >= TABLE_SIZE:
            assert not character.isalnum()
            continue
        alone = PUNCTUATION.sub("", character.lower())
        if character not in "İΣ":  # these two are lower-cased before they are looked up
            assert (chr(text[point]) if text[point] else "") == alone, hex(point)
        lexeme = LEXEME.match(character)
        assert bool(code[point]) == bool(lexeme), hex(point)


def words(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [f"{rng.getrandbits(48):x}" for _ in range(count)]


def test_signatures_are_the_smallest_of_each_function_over_the_set():
    factors, offsets = (values.astype(np.uint64) for values in hash_functions(128, 1))
    assert (factors % 2 == 1).all() and len(set(factors.tolist())) == 128
    text = " ".join(words(5_000, 1))  # more n-grams than the kernel takes at a time
    x = ngram_set(text.encode(), WORDS, 5) >> np.uint64(32)
    expected = ((x[:, None] * factors + offsets) % np.uint64(2**32)).min(axis=0)
    assert (signatures([text])[0] == expected).all()


def test_an_estimate_has_the_error_that_theory_gives_it():
    """Mean and spread over 300 pairs of J = 0.7: σ = √(0.7·0.3/128) = 0.0405."""
    left, right = [], []
    for seed in range(300):
        base = words(2 * 300 + 8, seed)
        shared = round(2 * 300 * 0.7 / 1.7)
        left.append(" ".join(base[:304]))
        right.append(" ".join(base[: shared + 4] + base[-(300 - shared) :]))
    estimates = (signatures(left) == signatures(right)).mean(axis=1)
    assert estimates.mean() == pytest.approx(0.7, abs=4 * 0.0405 / 300**0.5)
    assert estimates.std() == pytest.approx(0.0405, rel=0.2)
    exact = [jaccard(ngram_set(a.encode(), WORDS, 5), ngram_set(b.encode(), WORDS, 5)) for a, b in zip(left, right)]
    assert exact == pytest.approx([0.7] * 300, abs=0.002)


def test_unrelated_texts_agree_in_nothing_and_texts_too_short_are_empty():
    one, other, short = signatures([" ".join(words(300, 1)), " ".join(words(300, 2)), "four words are short"])
    assert (one == other).sum() == 0
    assert (short == EMPTY).all()


def test_a_text_is_signed_the_same_in_any_company():
    texts = [" ".join(words(n, n)) for n in (3, 700, 40, 0, 2000)]
    together = signatures(texts)
    assert all((signatures([text])[0] == row).all() for text, row in zip(texts, together))


def test_repetitions_do_not_count():
    sentence = "the sea rises and falls twice a day "
    assert (signatures([sentence * 3])[0] == signatures([sentence * 40])[0]).all()


def test_the_pure_functions_are_found_where_deduplication_is_and_take_what_others_rely_on():
    from tokenmill.curation import clusters, deduplicate, minhash

    assert deduplicate.signatures is minhash.signatures
    assert deduplicate.clusters is clusters.clusters
    assert deduplicate.signatures(["one two three four"] * 2, 3, 64).shape == (2, 64)  # texts, ngram, permutations
    with pytest.raises(AttributeError, match="no attribute 'cluster_of'"):
        deduplicate.cluster_of
