"""Each of IFEval's 25 kinds, followed and not, by the words of its instruction; strict, loose, and the four accuracies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.evaluation.instructions import CHECKS, accuracies, follows, follows_loosely, sentences

WORDS = "length_constraints:number_words"
TABLE = [
    ("keywords:existence", {"keywords": ["lamp", "C++"]}, "A LAMP and c++ code", "a lamp only"),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "at least"}, "Sea by the sea", "the sea"),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "less than"}, "the sea", "sea, sea"),
    ("keywords:forbidden_words", {"forbidden_words": ["art", "war"]}, "the artist warns", "no War please"),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 3, "let_relation": "at least"}, "Eels see", "eels"),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 3, "let_relation": "less than"}, "eels", "Eels see"),
    ("language:response_language", {"language": "de"}, "Der Hund schläft unter dem großen Tisch in der Küche.", "The dog sleeps under the big table in the kitchen."),
    ("language:response_language", {"language": "hi"}, "यह एक बहुत अच्छा दिन है और सूरज चमक रहा है।", "It is a very good day and the sun is shining."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "Dr. Who came. He left!", "Dr. Who left at 3.15."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "他走了", "他走了。天黑了。"),
    (WORDS, {"num_words": 3, "relation": "at least"}, "one two three", "one two"),
    (WORDS, {"num_words": 3, "relation": "less than"}, "one, two", "one two three"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "*** one *** two ***", "one *** *** two"),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}, "First.\n\n\"then, it rained", "First.\n\nAnd then"),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "one"}, "one\n\ntwo", "one\n\ntwo\n\nthree"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "Dear [name], at [address]", "Dear [name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye\n\np. s. more", "Bye\nPS more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\nP.P.S. more", "Bye\nP.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "So:\n* one\n- two", "* one\n- two\n- three"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "* one\n**two**", "**two**"),
    ("detectable_format:constrained_response", {}, "  My answer is maybe. ", "my answer is maybe."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and **two**", "*one* and ** **"),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2}, "Section 1 a\nSection 2 b", "Section 1 a\nSection two"),
    ("detectable_format:json_format", {}, "```JSON\n{\"a\": [1]}\n```", "Sure: {\"a\": 1}"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >>\ntext"),
    ("combination:two_responses", {}, "one ****** two", "same ****** same"),
    ("combination:two_responses", {}, "******one\n******\ntwo******", "one ****** ****** two"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a poem."}, " write a poem. Roses", "Sure. Write a poem."),
    ("startend:end_checker", {"end_phrase": "Any questions?"}, "That is all. \"any questions?\" ", "Any questions? No."),
    ("startend:quotation", {}, ' "quoted" ', '"open'),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "THE U.S. left", "The WELL-KNOWN left"),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"}, "A well known one", "A USA thing"),
    ("change_case:english_capital", {}, "THE DOG SLEEPS UNDER THE BIG TABLE IN THE KITCHEN", "THE DOG sleeps UNDER THE TABLE"),
    ("change_case:english_capital", {}, "THIS IS WHAT THEY SAID ABOUT THE WEATHER", "DAS IST WAS SIE ÜBER DAS WETTER GESAGT HABEN"),
    ("change_case:english_lowercase", {}, "the dog sleeps under the big table in the kitchen", "The dog sleeps under the big table"),
    ("punctuation:no_comma", {}, "no such mark here", "one, two"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parameters", "good", "bad"), TABLE)
def test_what_follows_and_what_does_not(name, parameters, good, bad):
    assert follows(name, good, **parameters) is True
    assert follows(name, bad, **parameters) is False


def test_all_25_kinds_of_the_public_list_are_there_and_tried():
    public = """
        keywords: existence frequency forbidden_words letter_frequency
        language: response_language
        length_constraints: number_sentences number_paragraphs number_words nth_paragraph_first_word
        detectable_content: number_placeholders postscript
        detectable_format: number_bullet_lists constrained_response number_highlighted_sections multiple_sections json_format title
        combination: two_responses repeat_prompt
        startend: end_checker quotation
        change_case: capital_word_frequency english_capital english_lowercase
        punctuation: no_comma
    """
    groups = [line.split(":") for line in public.split("\n") if line.strip()]
    names = {f"{group.strip()}:{kind}" for group, kinds in groups for kind in kinds.split()}
    assert len(names) == 25 and set(CHECKS) == names == {name for name, *_ in TABLE}


@pytest.mark.parametrize("name", sorted(CHECKS))
@pytest.mark.parametrize("empty", ["", " \n "])
def test_an_empty_response_follows_nothing(name, empty):
    parameters = next(p for n, p, *_ in TABLE if n == name)
    assert not follows(name, empty, **parameters) and not follows_loosely(name, empty, **parameters)


@pytest.mark.parametrize(
    ("name", "parameters", "response"),
    [
        ("startend:quotation", {}, 'Sure! Here it is:\n"quoted"'),  # without the first line
        ("startend:end_checker", {"end_phrase": "the end"}, "It was the end\nHope that helps!"),  # without the last
        ("detectable_format:json_format", {}, 'Here:\n{"a": 1}\nHope that helps!'),  # without both
        ("startend:quotation", {}, '**"quoted"**'),  # without asterisks
    ],
)
def test_loose_forgives_what_stands_around_an_answer(name, parameters, response):
    assert not follows(name, response, **parameters) and follows_loosely(name, response, **parameters)


@given(st.text(alphabet='ab\n* ".,P[]<>', max_size=30))
def test_what_follows_strictly_follows_loosely(response):
    for name, parameters, *_ in TABLE:
        if not name.startswith(("language", "change_case")) and follows(name, response, **parameters):
            assert follows_loosely(name, response, **parameters), name


def test_nulls_of_the_public_file_are_no_parameters():
    assert follows("punctuation:no_comma", "fine", keywords=None, num_words=None)
    with pytest.raises(KeyError):
        follows("punctuation:no_semicolon", "fine")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Mr. A. B. Smith paid $3.50. Really? Yes!", ["Mr. A. B. Smith paid $3.50.", "Really?", "Yes!"]),
        ('He said "Go." Then he left', ['He said "Go."', "Then he left"]),
        ("The U.S. is big... isn't it? ...", ["The U.S. is big... isn't it?"]),
        ("他走了。你呢？“好！”他说。", ["他走了。", "你呢？", "“好！”", "他说。"]),
        ("no end", ["no end"]),
        (" \n ", []),
    ],
)
def test_sentences_by_hand(text, found):
    assert sentences(text) == found


def test_the_four_accuracies_and_their_mean():
    strict = [[True, True], [True, False], [False]]
    loose = [[True, True], [True, True], [False]]
    found = accuracies(strict, loose)
    assert found == (1 / 3, 3 / 5, 2 / 3, 4 / 5)
    assert found.mean == pytest.approx((1 / 3 + 3 / 5 + 2 / 3 + 4 / 5) / 4)
