"""The compiled statistics. Oracle: the same statistics in plain Python, on random and on real text of three kinds."""

import importlib
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_document import RULE_VALUES, PlainDocument

from tokenmill.curation import characters, text_kernels
from tokenmill.curation.document import _COMPILED, Document
from tokenmill.curation.rules import RULES

ROOT = Path(__file__).parents[3]
ALL_CHARACTERS = "".join(map(chr, range(0x110000)))
STATISTICS = (
    *("n_sentences", "mean_word_length", "han_share", "punctuation_share", "alphabetic_share", "control_share"),
    *("replacement_share", "mojibake_share", "unique_share", "lines", "paragraphs", "tokens"),
)
# what decides something somewhere, so that random texts of it get into every corner
PIECES = (
    *("a", "b", "l", "Wort", "THE", "the", "of", "Σ", "ΣΑΣ", "İ", "ſ", "ı", "好", "的", "豈", "𠀀", "힣", "1", "é"),
    *(" ", "  ", "\n", "\n\n", " \n", "\n \n", "\t", "\u3000", "\x85", "\u2028", "\xa0", "\r\n"),
    *("...", "…", "。。。", "。", "，", ".", "!", "?", "'", '"', "”", ")", "(", "- ", "-", "•", "* ", "#", "{", "===="),
    *("Ã©", "â€™", "锟斤拷", "ï¿½", "â€", "Ã", "\ufffd", "\u200b", "\x00", "\ud800", "\ue000", "\ufdd0", "\U0001ffff"),
    *("Javascript", "enable javaſcript", "turn on\nJAVASCRİPT", "Lorem Ipsum", "lorem ıpſum"),
)
texts = st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text(max_size=40)


def differences(text: str, lang: str) -> dict[str, object]:
    """Statistic or rule → (expected, found), where they are not equal."""
    plain, ours = PlainDocument(text, lang), Document(text, lang)
    pairs = {name: (getattr(plain, name), getattr(ours, name)) for name in STATISTICS}
    pairs["n_units"] = len(plain.units), len(ours.units)
    pairs["units"] = list(plain.units), list(ours.units)
    pairs["repeated lines"] = plain.repeated(plain.lines), ours.repeated_lines
    pairs["repeated paragraphs"] = plain.repeated(plain.paragraphs), ours.repeated_paragraphs
    for n in range(2, 13):
        pairs[f"top {n}"] = plain.top_ngram_share(n), ours.top_ngram_share(n)
        pairs[f"duplicate {n}"] = plain.duplicate_ngram_share(n), ours.duplicate_ngram_share(n)
    for name, expected in RULE_VALUES.items():
        pairs[f"rule {name}"] = round(expected(plain), 4), RULES[name](ours).value
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@settings(max_examples=150)
@given(texts, st.sampled_from(["en", "zh", "any"]))
def test_every_statistic_and_every_rule_equals_plain_python(text, lang):
    assert differences(text, lang) == {}


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["ab", "c", "dd,", "Ee"]), min_size=20, max_size=120).map(" ".join))
def test_repetition_equals_plain_python_where_much_repeats(text):
    assert differences(text, "en") == {}


@pytest.mark.parametrize(
    "path", ["README.md", "docs/phases/curation.md", "components/tokenmill/curation/rules.py", "steps.lock"]
)
def test_real_text_of_this_repository_equals_plain_python(path):
    text = (ROOT / path).read_text("utf-8")
    assert differences(text, "en") == {}
    assert differences(text * 2, "zh") == {}


def test_chinese_prose_equals_plain_python():
    text = "海水每天涨落两次，是因为月亮吸引着海水。满月和新月的时候，太阳和月亮在一条线上，潮水最高；\n" * 3
    assert differences(text + "一个星期以后，潮水最低。渔民的孩子从小就会看潮水……\n\n海湾！", "zh") == {}


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        (text_kernels.WHITE, r"\s"),
        (text_kernels.HAN, r"[㐀-䶿一-鿿\uf900-\ufaff\U00020000-\U0002ebef]"),
        (text_kernels.PUNCTUATION, r"[!-/:-@\[-`{-~‐-⁞、-〟＀-／：-＠［-｠]"),
        (text_kernels.CONTROL, r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060\ufeff]"),
        (text_kernels.CLOSES, r"[\s\"'”’」』)）]|[^\x00-\x7f]"),
        (text_kernels.ENDS, r"[.!?。！？…]"),
    ],
)
def test_the_kind_of_each_of_unicodes_characters(kind, pattern):
    expected = [match.start() for match in re.finditer(pattern, ALL_CHARACTERS)]
    assert (characters.tables().kinds & kind).nonzero()[0].tolist() == expected


def test_letters_and_lower_case_of_each_of_unicodes_characters():
    found = characters.tables()
    letters = [code for code, character in enumerate(ALL_CHARACTERS) if character.isalpha()]
    assert (found.kinds & text_kernels.LETTER).nonzero()[0].tolist() == letters
    wrong = [code for code, character in enumerate(ALL_CHARACTERS) if character.lower() != chr(found.lower[code])]
    assert wrong == [ord("İ")]
    assert found.kinds[ord("İ")] & found.kinds[ord("Σ")] & text_kernels.CASED_TWICE


def test_korean_is_not_han():
    """The compatibility ideographs start at U+F900, which looks like U+8C48 and is folded into it by Unicode's forms."""
    assert Document("한국어 문서").han_share == 0
    assert Document("豈\uf900").han_share == 1


def test_a_long_document_keeps_apart_what_a_short_hash_would_not():
    """Oracle: by construction, 100,000 different words and 60,000 different lines, none twice."""
    words = Document(" ".join(f"w{n:x}" for n in range(100_000)))
    assert words.unique_share == 1 and words.duplicate_ngram_share(5) == 0
    assert Document("\n".join(f"line {n}" for n in range(60_000))).repeated_lines == (0, 0)


@pytest.mark.parametrize(("module", "last"), _COMPILED.items())
def test_what_is_looked_for_to_see_whether_a_module_is_compiled_is_what_it_compiles_last(module, last):
    passes = vars(importlib.import_module(f"tokenmill.curation.{module}"))
    lines = {name: p.py_func.__code__.co_firstlineno for name, p in passes.items() if hasattr(p, "py_func")}
    signed = {name: line for name, line in lines.items() if passes[name].nopython_signatures and name[0] != "_"}
    assert last == max(signed, key=signed.__getitem__)


def test_importing_curation_imports_no_compiler(run_python):
    run_python(
        "import sys; import tokenmill.curation.rules, tokenmill.curation.filter, tokenmill.curation.grade; "
        "assert 'numba' not in sys.modules; from tokenmill.curation.document import Document; "
        "assert Document('a b').n_units == 2 and 'numba' in sys.modules"
    )
