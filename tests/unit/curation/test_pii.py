"""Redaction. Oracles: published test numbers (card networks', GB 11643's, RFC 5952's forms), and look-alikes that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.curation.pii import is_card, is_id_card, redact

ALL = ("email", "phone", "id_card", "card", "ip")


def redacted(text: str, *kinds: str) -> str:
    return redact(text, kinds or ALL)[0]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("email", "jane.doe+news@mail.example.co.uk"),
        ("email", "_bob@Example.COM"),
        ("email", "张三的邮箱zhang_san@163.com".removeprefix("张三的邮箱")),
        ("phone", "+49 30 901820"),
        ("phone", "+86 138 1234 5678"),
        ("phone", "+8613812345678"),
        ("phone", "+44 (20) 7946-0958"),
        ("phone", "13812345678"),
        ("phone", "138-1234-5678"),
        ("phone", "86 138 1234 5678"),
        ("phone", "010-62345678"),
        ("phone", "0571-8765432"),
        ("phone", "(415) 555-2671"),
        ("phone", "415-555-2671"),
        ("phone", "1-415-555-2671"),
        ("id_card", "11010519491231002X"),  # the standard's own example
        ("id_card", "440524188001010014"),
        ("card", "4111 1111 1111 1111"),  # the networks' test numbers
        ("card", "4111111111111111"),
        ("card", "5555-5555-5555-4444"),
        ("card", "378282246310005"),
        ("card", "3782 822463 10005"),
        ("card", "6011111111111117"),
        ("card", "6200000000000005"),
        ("ip", "8.8.8.8"),
        ("ip", "93.184.216.34"),
        ("ip", "2606:2800:220:1:248:1893:25c8:1946"),
        ("ip", "2001:4860:4860::8888"),
    ],
)
def test_personal_data_is_found_between_words_of_any_script(kind, found):
    for before, after in (("", ""), ("call ", " now"), ("请联系", "谢谢"), ("(", ")"), ("x: ", "."), ("“", "”,")):
        assert redact(before + found + after, ALL) == (f"{before}<{kind}>{after}", {kind: 1})


@pytest.mark.parametrize(
    "text",
    [
        "a @ b", "@trace decorator", "icon@2x.png", "slack-@mlflow--users-CF0E5B.svg", "git@github.com:a/b.git",
        "13812345678901", "1381234567", "x13812345678", "12345678901", "free=15482871808", "0.13812345678", "ID-13812345678-7",
        "2023-10-12", "555-2671", "115-555-2671", "415-155-2671", "1 + 234 5678", "3+12345678", "+1 234 56",
        "110105194912310021", "11010519491331002X", "4111111111111112", "1234 5678 9012 3456", "0000 0000 0000 0000",
        "127.0.0.1", "10.0.0.1", "192.168.1.20", "255.255.255.255", "300.1.1.1", "1.2.3", "1.2.3.4.5", "v8.8.8.8", "==8.8.8.8",
        "version 8.8.8.8", '__version__ = "3.5.0.1"', "section 8.4.1.3", "版本：8.8.8.8", "12:30:45", "std::vector", "fe80::1",
        "2001:db8::1", "2023:10", "::1", "224.0.0.1",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_stays(text):
    for whole in (text, f"see {text} there", f"见{text}。"):
        assert redact(whole, ALL) == (whole, {})


def test_counts_are_by_kind_and_only_the_wanted_kinds_go():
    text = "a@b.org, c@d.org; 138 1234 5678 from 8.8.4.4"
    assert redact(text, ALL) == ("<email>, <email>; <phone> from <ip>", {"email": 2, "ip": 1, "phone": 1})
    assert redacted(text, "ip") == "a@b.org, c@d.org; 138 1234 5678 from <ip>"
    assert redact(text, ()) == (text, {})


@pytest.mark.parametrize("position", range(17))
def test_one_wrong_digit_of_an_identity_card_breaks_its_check(position):
    number = "11010519491231002X"
    wrong = number[:position] + str((int(number[position]) + 1) % 10) + number[position + 1 :]
    assert is_id_card(number) and not is_id_card(wrong)


@pytest.mark.parametrize("position", range(16))
def test_one_wrong_digit_of_a_card_breaks_its_check(position):
    number = "4111111111111111"
    wrong = number[:position] + str((int(number[position]) + 1) % 10) + number[position + 1 :]
    assert is_card(number) and not is_card(wrong)


PIECES = st.sampled_from(
    [
        "a@b.org",
        "13812345678",
        "8.8.8.8",
        "+49 30 901820",
        "4111111111111111",
        "<email>",
        "@",
        ".",
        " ",
        "x",
        "+",
        "1",
        "中",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_redacting_again_changes_nothing(text):
    once = redacted(text)
    assert redact(once, ALL) == (once, {})


@given(st.text(alphabet="01289+-.:@() abAB中", max_size=60))
def test_a_text_without_findings_is_returned_as_it_is(text):
    out, counts = redact(text, ALL)
    assert (out == text) == (not counts)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "seed", ["1", "+1", "a.", "1.", "1 ", "2001:", "a@", "(415) ", "+11111111111111111111111111111x", "a-@"]
)
def test_no_input_makes_the_search_explode(seed):
    """A million characters take a second in linear time, and hours in quadratic."""
    redact(seed * (1_000_000 // len(seed)), ALL)
