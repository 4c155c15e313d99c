"""Who draws PPO's answers: our own generation, or vLLM as a process beside the ranks. One interface for both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tokenmill.model.generation import generate
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.rlhf.config import SamplingConfig


@dataclass(frozen=True)
class Request:
    """A block of prompts that are answered together, and the seed of their chance."""

    prompts: list[list[int]]
    seed: int


@dataclass(frozen=True)
class Answer:
    """What the actor said to one prompt. A stop token, if one came, is the last."""

    tokens: list[int]
    logprobs: Tensor
    """Of each token under the *actor*, temperature 1, whole vocabulary: what importance ratios are relative to. On the CPU."""
    entropies: Tensor
    """Of the actor's distribution at each token, in nats."""
    finished: bool
    """Whether it came to an end by itself."""
    engine_error: float = 0.0
    """Sum over its tokens of |logprob of the engine − logprob of the actor|."""


class RolloutEngine(Protocol):
    """Draws answers from the actor as it is now."""

    def draw(self, requests: Sequence[Request]) -> list[list[Answer]]:
        """Answers to this rank's requests. Every rank calls it at the same time, each with its own."""


class NativeEngine:
    """Our KV-cached generation: the very weights that are trained, in their place."""

    def __init__(self, actor: InternLM2ForCausalLM, sampling: SamplingConfig, stop_ids: Sequence[int]) -> None:
        self.actor, self.sampling, self.stop_ids = actor, sampling, stop_ids

    def draw(self, requests: Sequence[Request]) -> list[list[Answer]]:
        return [self._block(request) for request in requests]

    def _block(self, request: Request) -> list[Answer]:
        drawn = generate(
            self.actor,
            request.prompts,
            max_new_tokens=self.sampling.max_new_tokens,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            seed=request.seed,
            stop_ids=self.stop_ids,
            batch_size=len(request.prompts),
        )
        return [
            Answer(one.tokens, torch.tensor(one.logprobs), torch.tensor(one.entropies), one.finish == "stop")
            for one in drawn
        ]
