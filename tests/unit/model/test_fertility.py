"""Fertility: counted by hand on texts of a few words."""

import pytest

from tokenmill.model.fertility import Fertility, measure
from tokenmill.model.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def bytewise() -> Tokenizer:
    """Every byte a token."""
    return Tokenizer.train([], vocab_size=384)


def test_bytes_alone(bytewise):
    """`naïve fox` has 9 characters in 10 bytes, two of them ï's; 语言 six bytes, all of them parts."""
    assert measure(bytewise, ["naïve fox"], "en") == Fertility(1, 10, 9, 2, tokens=10, fallbacks=2)
    chinese = measure(bytewise, ["语言", ""], "zh")
    assert chinese == Fertility(2, 6, 2, None, tokens=6, fallbacks=6)
    assert chinese.to_json() == {
        "documents": 2,
        "bytes": 6,
        "characters": 2,
        "words": None,
        "tokens": 6,
        "fallbacks": 6,
        "characters_per_token": 1 / 3,
        "bytes_per_token": 1.0,
        "tokens_per_word": None,
        "fallback_share": 1.0,
    }


def test_learned_pieces_make_fewer_tokens_and_no_fallbacks():
    learned = Tokenizer.train(["the fox 语言 "] * 9, vocab_size=384)
    english, chinese = measure(learned, ["the fox", "the fox"], "en"), measure(learned, [" 语言"], "zh-hant")
    assert (english.tokens, english.words, english.tokens_per_word) == (4, 4, 1.0)
    assert (chinese.tokens_per_word, chinese.characters_per_token, chinese.fallbacks) == (None, 3.0, 0)


def test_no_text_divides_by_nothing(bytewise):
    assert measure(bytewise, []).to_json()["bytes_per_token"] == 0.0


def test_more_texts_than_a_batch(bytewise):
    assert measure(bytewise, ["ab c"] * 700, "en") == Fertility(700, 2800, 2800, 1400, tokens=2800, fallbacks=0)
