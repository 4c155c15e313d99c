"""A needle in a haystack: where it goes, and what an answer about it is worth."""

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.evaluation.needle import heat_map, insert, levenshtein, score

HAY = list(range(100))
NEEDLE = [1000, 1001]


@pytest.mark.parametrize(("depth", "place"), [(0, 0), (1, 0), (50, 24), (99.9, 47), (100, 48)])
def test_the_needle_goes_to_a_share_of_the_haystack(depth, place):
    """48 tokens of hay make 50 with the needle: int(48 · depth / 100)."""
    made = insert(HAY, NEEDLE, 50, depth)
    assert made.index(1000) == place and made[place : place + 2] == NEEDLE
    assert [token for token in made if token < 1000] == HAY[:48]


def test_what_cannot_be_inserted_is_refused():
    for bad in ({"length": 1, "depth": 0}, {"length": 9, "depth": 101}, {"length": 9, "depth": -1}):
        with pytest.raises(ValueError):
            insert(HAY, NEEDLE, **bad)
    assert insert(HAY, NEEDLE, 1000, 50) == [*HAY[:50], *NEEDLE, *HAY[50:]]  # a short haystack


@pytest.mark.parametrize(
    ("answer", "needle", "keyword", "expected"),
    [
        ("It is the Golden Gate park.", "The best place is Golden Gate", "Golden Gate", 100),
        ("答案是 小 明", "小明最喜欢的实习地点是上海", "小明", 100),
        ("kitten", "sitting", None, 20 * (1 - 3 / 7)),  # Levenshtein's textbook pair
        ("", "abcd", None, 0),
        ("abcd", "abcd", None, 100),
        ("abxd", "abcd", "zz", 20 * 3 / 4),
    ],
)
def test_scores_by_the_reports_scorer(answer, needle, keyword, expected):
    assert score(answer, needle, keyword) == pytest.approx(expected)


def slow(one, other):
    """The definition, by recursion."""
    if not one or not other:
        return len(one) + len(other)
    return min(slow(one[1:], other) + 1, slow(one, other[1:]) + 1, slow(one[1:], other[1:]) + (one[0] != other[0]))


@given(st.text("ab", max_size=6), st.text("abc", max_size=6))
def test_levenshtein_is_its_definition(one, other):
    assert levenshtein(one, other) == slow(one, other)


def test_the_map_has_a_cell_a_measurement_and_none_for_what_is_missing():
    drawn = heat_map({(1000, 0.0): 100.0, (1000, 50.0): 20.0, (32000, 0.0): 0.0})
    root = ElementTree.fromstring(str(drawn))
    cells = [element for element in root.iter() if element.tag.endswith("rect")]
    titles = [element.text for element in root.iter() if element.tag.endswith("title")]
    assert len(cells) == 3 and titles[0] == "1000 tokens, depth 0%: 100"
    assert "mean score 40.0 over 2 lengths and 2 depths" in root.attrib["aria-label"]
    assert len({cell.attrib["fill"] for cell in cells}) == 3
    assert {"1k", "32k", "50%"} <= {element.text for element in root.iter() if element.tag.endswith("text")}
