"""What counts as the answer, and as a well-formed one."""

import pytest

from tokenmill.answers import extract, faults, option, same

END, EOS, OTHER = 508, 2, 505


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7, so\n#### 7", "7"),
        ("first #### 1 and then\n#### 1,234\nDone.", "1,234"),
        (r"thus \boxed{\frac{1}{2}} holds", r"\frac{1}{2}"),
        (r"we get \boxed{12", "12"),  # not closed: the last number
        ("So the answer is 42.", "42."),
        ("Question: how many?\nAnswer: 9 apples", "9 apples"),
        ("Ann has 3, then 5, then 8 coins", "8"),
        ("I do not know", None),
        ("#### ", None),
    ],
)
def test_extract_takes_the_last_stated_answer(text: str, answer: str | None) -> None:
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("answer", "expected", "equal"),
    [
        ("1,234", "1234", True),
        ("$7.00", "7", True),
        ("19.", "19", True),
        ("−3", "-3", True),
        ("1/2", "0.5", True),
        ("42 dollars.", "42", True),
        ("6 * 7 = 42, I think", "42", True),
        ("3 apples and 4 pears", "4", False),
        ("no number", "4", False),
        ("Paris", "paris", True),
        ("12", "21", False),
        ("1/0", "1", False),
        ("seven", "7", False),
        (None, "7", False),
    ],
)
def test_same_compares_numbers_as_numbers(answer: str | None, expected: str, equal: bool) -> None:
    assert same(answer, expected) is equal


@pytest.mark.parametrize(
    ("ids", "text", "fault"),
    [
        ([40, 41, END], "fine", None),
        ([40, 41], "cut", "no <|im_end|> within the limit"),
        ([40, EOS], "ended otherwise", "no <|im_end|> within the limit"),
        ([END], "", "empty"),
        ([40, END], " \n", "empty"),
        ([40, OTHER, END], "a", "special token inside"),
        ([40, END], "\ufffd", "not UTF-8"),
        ([], "", "no <|im_end|> within the limit"),
    ],
)
def test_faults_of_an_answer(ids: list[int], text: str, fault: str | None) -> None:
    found = faults(ids, text, END, {EOS, END, OTHER})
    assert (fault in found) if fault else not found


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (B).", "B"),
        ("The answer is: **C**", "C"),
        ("First I thought the answer is A, but the answer is D", "D"),
        ("答案是B", "B"),
        ("所以正确答案为：C。", "C"),
        ("故选 D", "D"),
        ("B. Paris is the capital", "B"),
        ("(A) because of this", "A"),
        ("C", "C"),
        ("A banana is a fruit, so it must be choice D", "D"),
        ("I would go for C here", "C"),
        ("Either B or C", None),
        ("none of them", None),
        ("Because it rains", None),  # B begins a word
        ("the answer is because", None),
    ],
)
def test_option_is_the_letter_that_was_chosen(text: str, letter: str | None) -> None:
    assert option(text) == letter
