"""The two models that PPO trains, in one module, and their loss (report §4.2.3)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokenmill.errors import ConfigError
from tokenmill.model import IGNORE
from tokenmill.model.modeling import InternLM2Critic, InternLM2ForCausalLM
from tokenmill.rlhf.config import PPOConfig
from tokenmill.rlhf.scoring import move
from tokenmill.training.packing import Pack
from tokenmill.training.run import LossOutput


class ActorCritic(nn.Module):
    """Actor and critic side by side: one engine, one optimizer, a rate for each."""

    def __init__(self, actor: InternLM2ForCausalLM, critic: InternLM2Critic) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic

    def forward(self, spoken: Pack, judged: Pack) -> tuple[Tensor, Tensor]:
        """The actor's loss at every token of `spoken`, the critic's value at every token of `judged`."""
        losses = self.actor(spoken.input_ids, spoken.cu_seqlens, spoken.positions, labels=spoken.labels)
        return losses, self.critic(judged.input_ids, judged.cu_seqlens, judged.positions)


@dataclass(frozen=True)
class Experience:
    """Some answers and what they taught: one value a token of the answers, in order."""

    answers: Pack
    logprobs: Tensor
    """Of the policy that drew them."""
    advantages: Tensor
    returns: Tensor
    pretraining: list[list[int]]
    """Pieces of pretraining data, about half as many tokens as the answers (§4.2.3)."""
    measured: dict[str, float]
    """Sums over the answers: reward, kl, length…"""
    measured_tokens: dict[str, float]
    """Sums over their tokens, for means a token: entropy…"""
    rewards: dict[str, tuple[float, int]]
    """Domain → sum of rewards, answers."""


@dataclass(frozen=True)
class Totals:
    """Over all ranks: what sums are divided by."""

    answers: float
    actions: float
    pretraining: float


@dataclass(frozen=True)
class MicroBatch:
    experience: Experience
    totals: Totals
    critic_only: bool
    on_policy: bool
    """Whether nothing was learned from these answers yet: then every importance ratio is 1."""


def ppo_loss(config: PPOConfig) -> Callable[[nn.Module, MicroBatch], LossOutput]:
    """Clipped policy loss + squared error of the critic + 0.5 · language-model loss.

    Means over the answers' tokens, and over the pretraining tokens. Advantages are not normalised, the value loss is
    not clipped (§4.2.3). While only the critic learns, the actor's terms count nothing.

    Raises (when called):
        ConfigError: in an iteration's first pass ratios are not 1, so what drew the answers is not what learns from them.
    """

    def loss(model: nn.Module, batch: MicroBatch) -> LossOutput:
        experience, totals = batch.experience, batch.totals
        device = next(model.parameters()).device
        judged = move(experience.answers, device)
        losses, values = model(with_pretraining(judged, experience.pretraining), judged)
        action = judged.labels != IGNORE
        scored = len(judged.input_ids)
        ratio = (-losses[:scored][action] - experience.logprobs.to(device)).exp()
        error = float((ratio.detach() - 1).abs().sum())
        if batch.on_policy and not error <= config.max_ratio_error * len(ratio):
            raise ConfigError(
                f"rlhf.ppo: before anything was learned from them, answers have importance ratios {error / len(ratio):.3g} "
                f"from 1 on average (max_ratio_error={config.max_ratio_error}): what draws is not what learns. "
                "Try precision=fp32 or another execution.attention"
            )
        advantages = experience.advantages.to(device)
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        policy = -torch.minimum(ratio * advantages, clipped * advantages).sum() / totals.actions
        value = (values[action] - experience.returns.to(device)).square().sum() / (2 * totals.actions)
        pretraining = losses[scored:].sum() / totals.pretraining
        actor = policy + config.pretrain_coefficient * pretraining
        answers = {name: total / totals.answers for name, total in experience.measured.items()}
        tokens = {name: total / totals.actions for name, total in experience.measured_tokens.items()}
        metrics = (
            answers
            | tokens
            | {
                "policy_loss": float(policy.detach()),
                "value_loss": float(value.detach()),
                "pretrain_loss": float(pretraining.detach()),
                "ratio_error": error / totals.actions,
                "clipped": float(((ratio.detach() - 1).abs() > config.clip).sum()) / totals.actions,
            }
        )
        return LossOutput(value + (0.0 if batch.critic_only else 1.0) * actor, metrics)

    return loss


def with_pretraining(answers: Pack, pieces: list[list[int]]) -> Pack:
    """One stream for the actor: the answers, then the pieces, every token of which is learned."""
    if not pieces:
        return answers
    more = move(Pack.of(pieces), answers.input_ids.device)
    return Pack(
        input_ids=torch.cat((answers.input_ids, more.input_ids)),
        labels=torch.cat((answers.labels, more.labels)),
        positions=torch.cat((answers.positions, more.positions)),
        cu_seqlens=torch.cat((answers.cu_seqlens, more.cu_seqlens[1:] + answers.cu_seqlens[-1])),
    )
