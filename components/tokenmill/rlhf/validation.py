"""Which of a PPO's policies leaves: the one worth most on queries that it never learns from (report §4.2.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from tokenmill.errors import InputError
from tokenmill.model.chat import encode_prompt
from tokenmill.rlhf.conditional import Query
from tokenmill.rlhf.engines import Request
from tokenmill.rlhf.rollouts import Rollouts

WORTH = "validation/worth"
"""What chooses: the reward that is left after KL is paid for."""


def kept_apart(queries: Sequence[Query], count: int) -> tuple[list[Query], list[Query]]:
    """Those that are learned from, and the `count` that are not: evenly out of all, as whatever orders them would have it.

    Raises:
        InputError: none would be left to learn from.
    """
    if count >= len(queries):
        raise InputError(
            f"rlhf.ppo: of {len(queries)} queries {count} are to be kept for validation, and none is left: bring more, or "
            "lower rlhf.ppo.validation_queries"
        )
    places = {round(number * len(queries) / count) for number in range(count)} if count else set()
    learned = [query for place, query in enumerate(queries) if place not in places]
    return learned, [query for place, query in enumerate(queries) if place in places]


@dataclass(frozen=True)
class Validation:
    """Asks the actor as it is; every time with the same chance."""

    rollouts: Rollouts
    queries: Sequence[Query]

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Mean reward and KL an answer, in nats, and what of the reward is left; the same on every rank."""
        rollouts, config = self.rollouts, self.rollouts.config
        blocks = [self.queries[i : i + config.block] for i in range(0, len(self.queries), config.block)]
        blocks = blocks[dist.get_rank() :: dist.get_world_size()]
        asked = [[encode_prompt(query.prompt, rollouts.tokenizer) for query in block] for block in blocks]
        requests = [Request(prompts, seed=config.seed) for prompts in asked]
        sums = torch.zeros(3, dtype=torch.float64, device=rollouts.model.actor.output.weight.device)
        for block, prompts, said in zip(blocks, asked, rollouts.engine.draw(requests), strict=True):
            scores, reference = rollouts.rewarded(block, prompts, [answer.tokens for answer in said])
            kl = sum(float((own.logprobs - ref).sum()) for own, ref in zip(said, reference, strict=True))
            sums += torch.tensor([float(scores.sum()), kl, len(said)], dtype=torch.float64, device=sums.device)
        dist.all_reduce(sums)
        reward, kl = (sums[:2] / sums[2]).tolist()
        return {"validation/reward": reward, "validation/kl": kl, WORTH: reward - config.kl_coefficient * kl}
