"""PPO's batches: the actor answers queries, the reward model judges, the critic's values turn it into advantages.

A batch is a function of the step and of the weights. Its unit is the block: some answers, drawn with their own seed.
Ranks share out blocks, so the same queries meet the same chance on any number of ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy
import torch
import torch.distributed as dist

from tokenmill.errors import ConfigError, InputError
from tokenmill.model import IGNORE
from tokenmill.model.chat import encode_prompt
from tokenmill.model.modeling import InternLM2ForCausalLM, InternLM2ForRewardModel
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.rlhf.actor_critic import ActorCritic, Experience, MicroBatch, Totals
from tokenmill.rlhf.advantage import gae
from tokenmill.rlhf.conditional import Query, reward_input
from tokenmill.rlhf.config import PPOConfig
from tokenmill.rlhf.engines import Answer, Request, RolloutEngine
from tokenmill.rlhf.kl import KLCoefficient
from tokenmill.rlhf.scoring import answer_logprobs, move, pack_answers, reward_scores
from tokenmill.training.packing import Pack
from tokenmill.training.pieces import PretrainingPieces
from tokenmill.training.run import StepBatch


@dataclass
class Rollouts:
    """The `Batches` of PPO: `passes` optimizer steps on each iteration's answers.

    What they depend on beside the step and the weights is the KL coefficient, which a checkpoint keeps.
    """

    engine: RolloutEngine
    model: ActorCritic
    reference: InternLM2ForCausalLM
    reward_model: InternLM2ForRewardModel
    tokenizer: Tokenizer
    queries: Sequence[Query]
    pretraining: PretrainingPieces
    config: PPOConfig
    kl_coefficient: KLCoefficient = field(init=False)
    domains: list[str] = field(init=False)
    _iteration: int = -1
    _experience: tuple[Experience, ...] = ()
    _sums: tuple[Totals, int] = field(init=False)
    _told: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.queries:
            raise InputError("no queries for PPO to answer")
        for frozen in (self.reference, self.reward_model):
            frozen.requires_grad_(False).eval()
        self.domains = sorted({query.domain for query in self.queries})
        self.kl_coefficient = KLCoefficient(self.config.kl_coefficient, self.config.kl_target, self.config.kl_gain)

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
            requests = [self.request(iteration, index) for index in mine]
            drawn = zip(mine, requests, self.engine.draw(requests), strict=True)
            self._experience = tuple(self.judged(iteration, *block) for block in drawn)
            self._iteration = iteration
            self._sums = self._sum_up()
        totals, tokens = self._sums
        critic_only = iteration < self.config.critic_warmup
        on_policy = step % self.config.passes == 0
        batches = [MicroBatch(experience, totals, critic_only, on_policy) for experience in self._experience]
        # Every term has its own divisor, so the loss arrives as a mean and the weight is one.
        return StepBatch(batches, 1.0, tokens)

    def measured(self, step: int) -> dict[str, float]:
        """What is said of the iteration that `step` is in, beside means over its answers."""
        return self._told

    def asked(self, iteration: int, index: int) -> list[Query]:
        """The queries of one block: all queries in seeded order, again and again."""
        first = iteration * self.config.answers + index * self.config.block
        places = [divmod(number, len(self.queries)) for number in range(first, first + self.config.block)]
        orders = {epoch: self._order(epoch) for epoch, _ in places}
        return [self.queries[orders[epoch][place]] for epoch, place in places]

    def _order(self, epoch: int) -> list[int]:
        return numpy.random.default_rng([self.config.seed, epoch]).permutation(len(self.queries)).tolist()

    def request(self, iteration: int, index: int) -> Request:
        """A block's prompts, with a seed of its own."""
        prompts = [encode_prompt(query.prompt, self.tokenizer) for query in self.asked(iteration, index)]
        return Request(prompts, seed=int(self._chance(iteration, index).generate_state(1)[0]))

    def _chance(self, iteration: int, index: int) -> numpy.random.SeedSequence:
        return numpy.random.SeedSequence([self.config.seed, iteration, index])

    @torch.no_grad()
    def judged(self, iteration: int, index: int, request: Request, said: Sequence[Answer]) -> Experience:
        """What a block's answers taught."""
        config, queries, prompts = self.config, self.asked(iteration, index), request.prompts
        answers = [answer.tokens for answer in said]
        logprobs = [answer.logprobs for answer in said]

        scores, reference = self.rewarded(queries, prompts, answers)
        pack = pack_answers(prompts, answers)
        values = self._values(pack).split([len(answer) for answer in answers])

        advantages = []
        for policy, frozen, score, value in zip(logprobs, reference, scores, values, strict=True):
            rewards = -self.kl_coefficient.value * (policy - frozen)
            rewards[-1] += score
            advantages.append(gae(rewards, value, config.gamma, config.gae_lambda))
        chance = self._chance(iteration, index).spawn(1)[0]
        pieces = self.pretraining.draw(
            round(config.pretrain_share * len(pack.input_ids)), numpy.random.default_rng(chance)
        )
        kl = sum(float((policy - frozen).sum()) for policy, frozen in zip(logprobs, reference, strict=True))
        scored = [(query.domain, float(score)) for query, score in zip(queries, scores, strict=True)]
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
                "unfinished": float(sum(not answer.finished for answer in said)),
            },
            measured_tokens={
                "entropy": sum(float(answer.entropies.sum()) for answer in said),
                "engine_error": sum(answer.engine_error for answer in said),
            },
            rewards={
                domain: (sum(of := [score for d, score in scored if d == domain]), len(of))
                for domain in {domain for domain, _ in scored}
            },
        )

    def rewarded(
        self, queries: Sequence[Query], prompts: Sequence[list[int]], answers: Sequence[list[int]]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The reward model's score of every answer, and the reference's log-probabilities of its tokens."""
        like = self.model.actor.output.weight
        judged = [
            reward_input(query, answer, self.tokenizer, max_length=self.config.max_length)
            for query, answer in zip(queries, answers, strict=True)
        ]
        reference = answer_logprobs(self.reference.to(like), prompts, answers)
        return reward_scores(self.reward_model.to(like), judged), reference

    def _values(self, answers: Pack) -> torch.Tensor:
        """The critic's value before each token of the answers."""
        critic = self.model.critic
        pack = move(answers, critic.v_head.weight.device)
        return critic(pack.input_ids, pack.cu_seqlens, pack.positions)[pack.labels != IGNORE].cpu()

    def _sum_up(self) -> tuple[Totals, int]:
        """Sums over the blocks of all ranks: what losses are divided by, and all tokens; tells what is no plain mean."""
        names = ["answers", "actions", "predicted", "tokens", "kl", "returns", "returns²", "errors", "errors²"]
        names += [f"{what} {domain}" for domain in self.domains for what in ("reward", "answers")]
        sums = dict.fromkeys(names, 0.0)
        for one in self._experience:
            returns, errors = one.returns.double(), one.advantages.double()
            found = {
                "answers": len(one.answers.cu_seqlens) - 1,
                "actions": len(one.logprobs),
                "predicted": sum(len(piece) - 1 for piece in one.pretraining),
                "tokens": len(one.answers.input_ids) + sum(map(len, one.pretraining)),
                "kl": one.measured["kl"],
                "returns": float(returns.sum()),
                "returns²": float(returns.square().sum()),
                "errors": float(errors.sum()),
                "errors²": float(errors.square().sum()),
            }
            for domain, (reward, answers) in one.rewards.items():
                found |= {f"reward {domain}": reward, f"answers {domain}": answers}
            for name, value in found.items():
                sums[name] += value
        if dist.is_initialized():
            tensor = torch.tensor(
                list(sums.values()), dtype=torch.float64, device=self.model.actor.output.weight.device
            )
            dist.all_reduce(tensor)
            sums = dict(zip(sums, tensor.tolist(), strict=True))
        self._told = self._measures(sums)
        self.kl_coefficient.update(sums["kl"] / sums["answers"])
        return Totals(sums["answers"], sums["actions"], max(sums["predicted"], 1.0)), int(sums["tokens"])

    def _measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The iteration's KL coefficient, rewards a domain, and how much of the returns' variance the critic foresaw."""
        n = sums["actions"]
        variance, unexplained = (sums[f"{of}²"] / n - (sums[of] / n) ** 2 for of in ("returns", "errors"))
        rewards = {
            f"reward/{domain}": sums[f"reward {domain}"] / sums[f"answers {domain}"]
            for domain in self.domains
            if sums[f"answers {domain}"]
        }
        foreseen = {"explained_variance": 1 - unexplained / variance} if variance > 0 else {}
        return {"kl_coefficient": self.kl_coefficient.value} | foreseen | rewards
