"""The gold set: right answers, and forms that a program can verify (fixtures after IFEval's instructions)."""

import pytest

from tokenmill.errors import InputError
from tokenmill.rlhf.gold import GoldQuestion, form_of, score

END, SPECIAL = 9, frozenset({8, 9})


def question(answer="17", **form):
    return GoldQuestion("q", "math", ({"role": "user", "content": "What is 12 + 5?"},), answer, form)


@pytest.mark.parametrize(
    ("form", "obeys", "breaks"),
    [
        ({"contains": ["sum", "="]}, "The sum is 12 + 5 = 17.", "It = 17."),
        ({"excludes": ["sorry"]}, "Seventeen.", "I am sorry."),
        ({"min_words": 3}, "It is 17.", "It is."),
        ({"max_words": 3}, "It is 17.", "It is 17, you know."),
        ({"begins_with": "Answer:"}, "Answer: 17", "17"),
        ({"ends_with": "."}, "It is 17. ", "It is 17"),
        ({"case": "lower"}, "it is 17.", "It is 17."),
        ({"case": "upper"}, "IT IS 17.", "It is 17."),
        ({"case": "upper", "max_words": 3}, "IT IS 17.", "IT IS 17 NOW."),
    ],
)
def test_a_form_is_obeyed_or_broken(form, obeys, breaks):
    assert question(**form).is_obeyed(obeys) and not question(**form).is_obeyed(breaks)


def test_right_and_obeyed_are_two_things_and_a_broken_turn_is_never_obeyed():
    asked = [question(ends_with=".")] * 4
    texts = ["12 + 5 = 17.", "12 + 5 = 16.", "12 + 5 = 17", "12 + 5 = 17."]
    ids = [[1, END], [1, END], [1, END], [1, 2]]  # the last was cut at the limit
    scored = score(asked, texts, ids, END, SPECIAL)
    assert (scored.right, scored.obeyed) == ([1, 0, 1, 1], [1, 1, 0, 0])


def test_a_reference_obeys_its_own_form_and_another_kind_of_answer_does_not():
    asked = question(**form_of("12 + 5 = 17."))
    assert asked.is_obeyed("12 + 5 = 17.") and asked.is_obeyed("7 + 5 = 12.")
    assert not asked.is_obeyed("Sure, first get ready, then open the door.")


def test_an_unknown_rule_is_refused_with_those_there_are():
    record = {"id": "g1", "messages": [], "answer": "1", "form": {"rhymes": True}}
    with pytest.raises(InputError, match="g1: no rule 'rhymes' for an answer's form; known: contains"):
        GoldQuestion.of(record)
