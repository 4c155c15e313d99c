"""What the smoke test makes of its comparison with our own generation. Against a real engine: tests/integration."""

import pytest
from pico import Lab, released

from tokenmill.deployment.client import EngineClient
from tokenmill.deployment.config import DeployConfig
from tokenmill.deployment.smoke import agreed, disagreement, shared_prefix
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.steps.files import materialise


@pytest.mark.parametrize(
    ("ours", "theirs", "equal"),
    [([1, 2, 3], [1, 2, 3], 3), ([1, 2, 3], [1, 9, 3], 1), ([1, 2], [1, 2, 3], 2), ([1], [], 0)],
)
def test_agreement_ends_at_the_first_difference(ours: list[int], theirs: list[int], equal: int) -> None:
    assert shared_prefix(ours, theirs) == equal


def test_a_context_that_holds_no_golden_chat_compares_nothing_and_that_is_no_agreement(lab: Lab) -> None:
    """Not even where every share would do. No server is asked: there is nothing to ask it."""
    folder = materialise(lab.store, released(lab, context=16).release, lab.folder / "release")
    nobody = EngineClient("http://127.0.0.1:9", "chat")
    found = agreed(nobody, folder, Tokenizer.load(folder), DeployConfig(parity_tokens=4))
    assert (found["prompts"], found["tokens"], found["share"]) == (0, 0, None)
    (reason,) = disagreement(found, least=0.0)
    assert "no greedy token was compared" in reason and "context of 16 tokens" in reason


def test_the_share_that_agrees_has_a_limit() -> None:
    found = {"prompts": 1, "context": 128, "tokens": 8, "equal": 6, "share": 0.75}
    assert disagreement(found, least=0.75) == []
    assert disagreement(found, least=0.8) == ["75.0% of greedy tokens agree with our own generation"]
