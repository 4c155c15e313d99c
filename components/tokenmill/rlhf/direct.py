"""DPO's batches and loss: pairs of answers to one prompt, each with the reference's log-probability."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmill.model import IGNORE
from tokenmill.model.chat import answer_ids, encode_prompt
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.records import Record
from tokenmill.rlhf.conditional import Query
from tokenmill.rlhf.pairs import PairBatches
from tokenmill.rlhf.scoring import answer_logprobs, pack_answers
from tokenmill.training.packing import Pack
from tokenmill.training.run import LossOutput


@dataclass(frozen=True)
class AnsweredPair:
    """One prompt, its chosen and its rejected answer, and what the reference gives both, in nats."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    reference: tuple[float, float]


@dataclass(frozen=True)
class DPOPack:
    """Some pairs in one stream: chosen, rejected, chosen, rejected, …"""

    pack: Pack
    reference: Tensor
    """(pairs, 2)"""


def answered_pairs(reference: InternLM2ForCausalLM, records: Sequence[Record], words: Tokenizer) -> list[AnsweredPair]:
    """The records as token ids, with the reference's log-probability of every answer."""
    prompts = [encode_prompt(Query.of(record).prompt, words) for record in records]
    sides = [[answer_ids(record[side], words) for record in records] for side in ("chosen", "rejected")]
    told = [[float(own.sum()) for own in answer_logprobs(reference, prompts, answers)] for answers in sides]
    return [
        AnsweredPair(prompt, chosen, rejected, both)
        for prompt, chosen, rejected, both in zip(prompts, *sides, zip(*told, strict=True), strict=True)
    ]


class DPOBatches(PairBatches[AnsweredPair, DPOPack]):
    """`PairBatches` of answers whose prompt is not learned."""

    def tokens_of(self, pair: AnsweredPair) -> int:
        return 2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected)

    def packed(self, pairs: Sequence[AnsweredPair]) -> DPOPack:
        if not pairs:
            return DPOPack(Pack.of([[0]], [[IGNORE]]), torch.zeros(0, 2))
        prompts = [pair.prompt for pair in pairs for _ in range(2)]
        answers = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
        return DPOPack(pack_answers(prompts, answers), torch.tensor([pair.reference for pair in pairs]))


def preference_loss(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """−log σ(β · [(log π(c) − log π_ref(c)) − (log π(r) − log π_ref(r))]) of each pair (Rafailov et al. 2023, eq. 7).

    Args:
        policy: log-probabilities of whole answers, (pairs, 2): chosen, rejected.
        reference: the same of the model that it starts as.
    """
    rewards = beta * (policy - reference)
    return -F.logsigmoid(rewards[:, 0] - rewards[:, 1])


def dpo_loss(beta: float) -> Callable[[torch.nn.Module, DPOPack], LossOutput]:
    """The loss of some pairs, summed, with how many are in the right order and their implicit rewards."""

    def loss(model: torch.nn.Module, batch: DPOPack) -> LossOutput:
        device = next(model.parameters()).device
        pack, ends = batch.pack, batch.pack.cu_seqlens.to(device)
        losses = model(pack.input_ids.to(device), ends, pack.positions.to(device), labels=pack.labels.to(device))
        if not len(batch.reference):
            zeros = dict.fromkeys(("accuracy", "margin", "chosen_reward", "rejected_reward"), 0.0)
            return LossOutput(losses.sum(), zeros)
        answer = torch.arange(len(ends) - 1, device=device).repeat_interleave(ends.diff(), output_size=len(losses))
        summed = torch.zeros(len(ends) - 1, device=device).index_add(0, answer, -losses)
        policy, reference = summed.view(-1, 2), batch.reference.to(device)
        chosen, rejected = (beta * (policy.detach() - reference)).unbind(1)
        metrics = {
            "accuracy": (chosen > rejected).sum(),
            "margin": (chosen - rejected).sum(),
            "chosen_reward": chosen.sum(),
            "rejected_reward": rejected.sum(),
        }
        return LossOutput(preference_loss(policy, reference, beta).sum(), metrics)

    return loss
