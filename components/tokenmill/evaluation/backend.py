"""What examines a model needs of it: losses of given tokens, and answers to prompts. Where it runs is a backend's business."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tokenmill.model.tokenizer import Tokenizer

Ids = Sequence[int]


class Sample(NamedTuple):
    """A sequence whose loss is asked for."""

    ids: Ids
    labels: Ids
    """In their tokens' places; IGNORE where a token does not count. The first never does: nothing stands before it."""


class Loss(NamedTuple):
    """Summed cross-entropy of a sample's tokens that count, in nats, and how many they are."""

    total: float
    tokens: int


class Answer(NamedTuple):
    """What followed a prompt."""

    tokens: list[int]
    """The stop token, if one came, is the last."""
    stopped: bool


class Sampling(NamedTuple):
    """How answers are drawn; by default the likeliest token is taken."""

    max_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float = 0.0
    seed: int = 0


class Backend(Protocol):
    """A model, wherever it runs. The same model behind two backends gives the same answers item by item."""

    @property
    def context(self) -> int:
        """Tokens that the model reads, prompt and answer together."""

    def check(self, tokenizer: Tokenizer) -> None:
        """Raise InputError where the model was not trained with this tokenizer."""

    def losses(self, samples: Sequence[Sample]) -> list[Loss]: ...

    def answers(self, prompts: Sequence[Ids], sampling: Sampling) -> list[Answer]: ...
