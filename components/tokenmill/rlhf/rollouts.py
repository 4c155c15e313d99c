"""PPO's batches: the actor answers queries, the reward model judges, the critic's values turn it into advantages.

A batch is a function of the step and of the weights. Its unit is the block: some answers, drawn with their own seed.
Ranks share out blocks, so the same queries meet the same chance on any number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
import torch.distributed as dist

from tokenmill.errors import ConfigError, InputError
from tokenmill.model import IGNORE
from tokenmill.model.chat import encode_prompt
from tokenmill.model.generation import generate
from tokenmill.model.modeling import InternLM2ForCausalLM, InternLM2ForRewardModel
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.rlhf.actor_critic import ActorCritic, Experience, MicroBatch, Totals, move
from tokenmill.rlhf.advantage import gae
from tokenmill.rlhf.conditional import Query, reward_input
from tokenmill.rlhf.config import PPOConfig
from tokenmill.rlhf.scoring import answer_logprobs, pack_answers, reward_scores
from tokenmill.training.packing import Pack
from tokenmill.training.pieces import PretrainingPieces
from tokenmill.training.run import StepBatch


@dataclass
class Rollouts:
    """The `Batches` of PPO: `passes` optimizer steps on each iteration's answers."""

    model: ActorCritic
    reference: InternLM2ForCausalLM
    reward_model: InternLM2ForRewardModel
    tokenizer: Tokenizer
    queries: Sequence[Query]
    pretraining: PretrainingPieces
    config: PPOConfig
    _iteration: int = -1
    _experience: tuple[Experience, ...] = ()

    def __post_init__(self) -> None:
        if not self.queries:
            raise InputError("no queries for PPO to answer")
        for frozen in (self.reference, self.reward_model):
            frozen.requires_grad_(False).eval()

    def __len__(self) -> int:
        return self.config.iterations * self.config.passes

    def accumulation(self, world: int) -> int:
        """A rank's blocks of answers are its micro-batches."""
        blocks = self.config.answers // self.config.block
        if blocks % world:
            raise ConfigError(
                f"rlhf.ppo: {blocks} blocks of answers do not divide among {world} ranks: "
                "change rlhf.ppo.answers, block or execution.ranks"
            )
        return blocks // world

    def resumable(self, step: int) -> bool:
        """Where an iteration begins: within one, the answers would be drawn again, by another actor."""
        return step % self.config.passes == 0

    def first_sample(self, step: int) -> int:
        """Answers are samples, learned from in every pass of their iteration."""
        return step // self.config.passes * self.config.answers

    def at(self, step: int, rank: int, world: int) -> StepBatch:
        mine = range(rank, self.accumulation(world) * world, world)
        iteration = step // self.config.passes
        if iteration != self._iteration:
            self._experience = tuple(self.block(iteration, index) for index in mine)
            self._iteration = iteration
        totals, tokens = self._totals()
        critic_only = iteration < self.config.critic_warmup
        # Every term has its own divisor, so the loss arrives as a mean and the weight is one.
        return StepBatch([MicroBatch(experience, totals, critic_only) for experience in self._experience], 1.0, tokens)

    def asked(self, iteration: int, index: int) -> list[Query]:
        """The queries of one block: all queries in seeded order, again and again."""
        first = iteration * self.config.answers + index * self.config.block
        places = [divmod(number, len(self.queries)) for number in range(first, first + self.config.block)]
        orders = {epoch: self._order(epoch) for epoch, _ in places}
        return [self.queries[orders[epoch][place]] for epoch, place in places]

    def _order(self, epoch: int) -> list[int]:
        return numpy.random.default_rng([self.config.seed, epoch]).permutation(len(self.queries)).tolist()

    @torch.no_grad()
    def block(self, iteration: int, index: int) -> Experience:
        """Answer a block's queries and judge the answers."""
        config, sampling = self.config, self.config.sampling
        chance = numpy.random.SeedSequence([config.seed, iteration, index])
        queries = self.asked(iteration, index)
        prompts = [encode_prompt(query.prompt, self.tokenizer) for query in queries]
        generations = generate(
            self.model.actor,
            prompts,
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=int(chance.generate_state(1)[0]),
            stop_ids=self.tokenizer.stop_ids,
            batch_size=len(prompts),
        )
        answers = [generation.tokens for generation in generations]
        logprobs = [torch.tensor(generation.logprobs) for generation in generations]

        like = self.model.actor.output.weight
        reference = answer_logprobs(self.reference.to(like), prompts, answers)
        judged = [
            reward_input(query, answer, self.tokenizer, max_length=config.max_length)
            for query, answer in zip(queries, answers, strict=True)
        ]
        scores = reward_scores(self.reward_model.to(like), judged)
        pack = pack_answers(prompts, answers)
        values = self._values(pack).split([len(answer) for answer in answers])

        advantages = []
        for policy, frozen, score, value in zip(logprobs, reference, scores, values, strict=True):
            rewards = -config.kl_coefficient * (policy - frozen)
            rewards[-1] += score
            advantages.append(gae(rewards, value, config.gamma, config.gae_lambda))
        pieces = self.pretraining.draw(
            round(config.pretrain_share * len(pack.input_ids)), numpy.random.default_rng(chance.spawn(1)[0])
        )
        kl = sum(float((policy - frozen).sum()) for policy, frozen in zip(logprobs, reference, strict=True))
        return Experience(
            answers=pack,
            logprobs=torch.cat(logprobs),
            advantages=torch.cat(advantages),
            returns=torch.cat(advantages) + torch.cat(values),
            pretraining=pieces,
            measured={
                "reward": float(scores.sum()),
                "kl": kl,
                "length": float(sum(map(len, answers))),
                "unfinished": float(sum(generation.finish == "length" for generation in generations)),
            },
        )

    def _values(self, answers: Pack) -> torch.Tensor:
        """The critic's value before each token of the answers."""
        critic = self.model.critic
        pack = move(answers, critic.v_head.weight.device)
        return critic(pack.input_ids, pack.cu_seqlens, pack.positions)[pack.labels != IGNORE].cpu()

    def _totals(self) -> tuple[Totals, int]:
        """Sums over the blocks of all ranks: answers, their tokens, pretraining's predicted tokens; and all tokens."""
        sums = torch.zeros(4, dtype=torch.float64, device=self.model.actor.output.weight.device)
        for experience in self._experience:
            pieces = experience.pretraining
            tokens = len(experience.answers.input_ids) + sum(map(len, pieces))
            predicted = sum(len(piece) - 1 for piece in pieces)
            answers = len(experience.answers.cu_seqlens) - 1
            sums += sums.new_tensor([answers, len(experience.logprobs), predicted, tokens])
        if dist.is_initialized():
            dist.all_reduce(sums)
        answers, actions, predicted, tokens = sums.tolist()
        return Totals(answers, actions, max(predicted, 1.0)), int(tokens)
