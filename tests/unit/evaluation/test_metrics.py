"""Metrics against enumeration, textbooks' tables and libraries that compute the same in another way."""

import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.evaluation.metrics import (
    accuracy,
    bleu,
    chrf,
    circular,
    exact_match,
    f1,
    pass_at_k,
    rotations,
    rouge_l,
    words,
)

TEXT = st.text(alphabet="ab cd中文，.", max_size=12)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations(range(n), k))
        right = Fraction(sum(any(i < c for i in draw) for draw in draws), len(draws))
        assert pass_at_k(n, c, k) == pytest.approx(float(right), abs=1e-12), (n, c, k)


@given(st.integers(1, 400), st.data())
def test_pass_at_k_of_many_samples_is_the_formula(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert pass_at_k(n, c, k) == pytest.approx(float(1 - Fraction(math.comb(n - c, k), math.comb(n, k))), abs=1e-9)


def test_pass_at_k_is_unbiased_where_the_plug_in_is_not():
    """E over binomial c of the estimate equals 1 − (1 − p)^k."""
    n, k, p = 10, 3, 0.3
    chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    assert sum(w * pass_at_k(n, c, k) for c, w in enumerate(chance)) == pytest.approx(1 - (1 - p) ** k)
    assert sum(w * (1 - (1 - c / n) ** k) for c, w in enumerate(chance)) < 1 - (1 - p) ** k - 0.01


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 1, 6), (5, 1, 0)])
def test_pass_at_k_refuses_what_is_no_draw(n, c, k):
    with pytest.raises(ValueError, match="needs 0 ≤ c ≤ n"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("answer", "right", "em", "f"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1.0, 1.0),
        ("in the Eiffel Tower", ["Eiffel Tower"], 0.0, 0.8),  # in, eiffel, tower: P 2/3, R 1
        ("a b b", ["b b c"], 0.0, 0.8),  # the article a goes: b b against b b c
        ("Paris", ["London", "paris."], 1.0, 1.0),
        ("", ["x"], 0.0, 0.0),
        ("an", ["the"], 1.0, 1.0),  # articles alone are nothing on both sides
        ("北京市", ["北京"], 0.0, 0.8),  # by character: 2 of 3, 2 of 2
        ("是北京。", ["北京"], 0.0, 0.8),
        ("北京", ["北京！"], 1.0, 1.0),
        ("GPT４模型", ["gpt4 模型"], 1.0, 1.0),  # full width digits
    ],
)
def test_exact_match_and_f1_by_hand(answer, right, em, f):
    assert exact_match(answer, right) == em
    assert f1(answer, right) == pytest.approx(f)


def test_words_of_chinese_are_characters_and_of_latin_are_words():
    assert words("InternLM2 的长度是 200K tokens.") == ["internlm2", "的", "长", "度", "是", "200k", "tokens"]
    assert words("the end", articles=True) == ["the", "end"]


def longest_common(one, other):
    """By trying every subsequence."""
    for size in range(len(one), 0, -1):
        for places in itertools.combinations(range(len(one)), size):
            rest = iter(other)
            if all(one[i] in rest for i in places):
                return size
    return 0


@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence(one, other):
    x, y = " ".join(one), " ".join(other)
    if one and other:
        common = longest_common(one, other)
        precision, recall = common / len(one), common / len(other)
        expected = 2 * precision * recall / (precision + recall) if common else 0.0
    else:
        expected = float(one == other)
    assert rouge_l(x, [y]) == pytest.approx(expected)


def test_rouge_l_of_lins_example():
    """Lin 2004, §3.1, with β = 1: "police killed the gunman"."""
    assert rouge_l("police kill the gunman", ["police killed the gunman"]) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", ["police killed the gunman"]) == pytest.approx(2 / 4)


@given(TEXT, TEXT)
def test_overlap_is_between_nothing_and_all_and_symmetric(one, other):
    for metric in (f1, rouge_l):
        assert 0 <= metric(one, [other]) <= 1 and metric(one, [one]) == 1
        assert metric(one, [other]) == pytest.approx(metric(other, [one]))
    assert exact_match(one, [other]) <= f1(one, [other])
    assert f1(one, [other, one]) == 1


def test_bleu_of_one_sentence_is_its_definition():
    """n-gram precisions 5/6, 3/5, 1/4 and, smoothed by sacrebleu's "exp", 1/(2·3); no brevity penalty."""
    score = bleu(["the cat sat on a mat"], [["the cat is on a mat"]])
    assert score == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25)


def test_bleu_takes_several_references_and_cuts_chinese():
    assert bleu(["a b c d e"], [["x y z v w", "a b c d e"]]) == pytest.approx(100)
    assert bleu(["今天天气很好"], [["今天天气真好"]], "zh") > 20 > bleu(["今天天气很好"], [["今天天气真好"]], "en")


def test_chrf_is_the_f2_of_character_ngrams():
    """One order fits: of "ab" against "ac" unigrams 1/2 and bigrams 0 on both sides; orders that do not exist do not count."""
    assert chrf(["ab"], [["ac"]]) == pytest.approx(100 * (1 / 2 + 0) / 2)
    assert chrf(["same text"], [["same text"]]) == pytest.approx(100)


def test_accuracy():
    assert accuracy(["A", "B", "C"], ["A", "C", "C"]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError):
        accuracy(["A"], ["A", "B"])


def test_every_option_stands_everywhere_once_and_the_right_one_stays_right():
    turned = rotations(["w", "x", "y", "z"], 2)
    assert len(turned) == 4 and all(choices[answer] == "y" for choices, answer in turned)
    assert sorted(answer for _, answer in turned) == [0, 1, 2, 3]
    assert turned[1] == (["x", "y", "z", "w"], 1)


def test_a_habit_of_choosing_the_first_option_wins_nothing_in_a_circle():
    rng = random.Random(0)
    questions = [rotations("abcd", rng.randrange(4)) for _ in range(40)]
    first = [[answer == 0 for _, answer in turns] for turns in questions]
    assert sum(map(sum, first)) / 160 == 0.25 and not any(map(circular, first))
    assert circular([1.0] * 4) == 1 and circular([1.0, 1.0, 1.0, 0.5]) == 0
