"""Where an alias goes, as a table; and what things are called."""

import pytest

from tokenmill.deployment.promote import decide
from tokenmill.tracking import RunRef
from tokenmill.tracking.registry import registered_name

PASSED = {"served": True, "ok": True, "reason": ""}
FAILED = {"served": True, "ok": False, "reason": "no answer"}
UNTRIED = {"served": False, "ok": False, "reason": "no serving environment"}


@pytest.mark.parametrize(
    ("now", "former", "smoke", "needs", "target", "action"),
    [
        (None, None, PASSED, True, "2", "promoted"),
        ("1", None, PASSED, True, "2", "promoted"),
        ("2", "1", PASSED, True, "2", "kept"),  # again: nothing to do
        ("1", None, FAILED, True, "1", "kept"),  # it never got the alias
        ("2", "1", FAILED, True, "1", "rolled back"),
        ("2", None, FAILED, True, None, "rolled back"),  # nothing was there before it
        ("3", "1", FAILED, True, "3", "kept"),  # somebody else's by now
        ("1", None, UNTRIED, True, "1", "kept"),
        ("2", "1", UNTRIED, True, "2", "kept"),  # not tried is not failed
        ("1", None, UNTRIED, False, "2", "promoted"),
    ],
)
def test_where_the_alias_goes(now, former, smoke, needs, target, action) -> None:
    move = decide(now, "2", former, smoke, needs)
    assert (move.target, move.action) == (target, action)
    assert move.why


def test_a_model_that_fails_with_new_values_and_is_served_with_the_old_ones_keeps_its_alias() -> None:
    assert decide("2", "2", "1", FAILED | {"still": True}, True).action == "kept"
    assert decide("2", "2", "1", FAILED | {"still": False}, True).action == "rolled back"


def test_a_way_back_that_served_well_is_no_promotion() -> None:
    """So that the next way back does not lead to what was just left."""
    move = decide("2", "1", None, {"ok": True, "served": True, "reason": "", "back": True}, True)
    assert (move.target, move.action) == ("1", "rolled back")


@pytest.mark.parametrize(
    ("preset", "name"),
    [("nano", "internlm2-chat-nano"), ("internlm2-7b", "internlm2-chat-7b"), ("", "internlm2-chat")],
)
def test_registered_name(preset: str, name: str) -> None:
    assert registered_name("chat", RunRef.new("test", preset)) == name
