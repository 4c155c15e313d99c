"""Frozen models at work: log-probabilities of answers, scores of the reward model."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokenmill.errors import CorruptError
from tokenmill.model import IGNORE
from tokenmill.model.modeling import InternLM2ForCausalLM, InternLM2ForRewardModel
from tokenmill.training.packing import Pack

TOKENS_AT_ONCE = 16_384
"""Of a packed forward pass without gradients."""
_ROWS = 1024
"""Tokens whose whole distributions are in memory at once."""


def pack_answers(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Pack:
    """Prompt and answer of every row in one stream; labels at the places where the answer's tokens are predicted."""
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    labels = [[IGNORE] * len(prompt) + list(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    return Pack.of(rows, labels)


@torch.no_grad()
def answer_logprobs(
    model: InternLM2ForCausalLM, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[Tensor]:
    """log p of each answer's tokens given its prompt, on the CPU."""
    device = model.output.weight.device
    logprobs: list[Tensor] = []
    for part in _batches([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]):
        pack = pack_answers(prompts[part], answers[part])
        losses = model(pack.input_ids.to(device), pack.cu_seqlens.to(device), labels=pack.labels.to(device))
        logprobs += (-losses[pack.labels != IGNORE].cpu()).split([len(answer) for answer in answers[part]])
    return logprobs


@torch.no_grad()
def answer_distributions(
    model: InternLM2ForCausalLM, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[tuple[Tensor, Tensor]]:
    """log p of each answer's tokens, and the entropy of the distribution at each, in nats; on the CPU."""
    device = model.output.weight.device
    found: list[tuple[Tensor, Tensor]] = []
    for part in _batches([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]):
        pack = move(pack_answers(prompts[part], answers[part]), device)
        said = pack.labels != IGNORE
        hidden = model.model.packed(pack.input_ids, pack.cu_seqlens, pack.positions)[said]
        logprobs, entropies = [], []
        for rows, tokens in zip(hidden.split(_ROWS), pack.labels[said].split(_ROWS), strict=True):
            every = model.output(rows).float().log_softmax(-1)
            logprobs.append(every.gather(1, tokens[:, None]).squeeze(1).cpu())
            entropies.append(-(every.exp() * every).sum(-1).cpu())
        lengths = [len(answer) for answer in answers[part]]
        found += zip(torch.cat(logprobs).split(lengths), torch.cat(entropies).split(lengths), strict=True)
    return found


@torch.no_grad()
def reward_scores(model: InternLM2ForRewardModel, inputs: Sequence[Sequence[int]]) -> Tensor:
    """The score of every input at its last token, the reward token; on the CPU.

    Raises:
        CorruptError: a score is not a finite number: whatever was trained on it would be spoiled.
    """
    device = model.v_head.weight.device
    scores = []
    for part in _batches([len(ids) for ids in inputs]):
        pack = Pack.of(inputs[part])
        ends = pack.cu_seqlens.to(device)
        scores.append(model(pack.input_ids.to(device), ends, at=ends[1:] - 1).cpu())
    found = torch.cat(scores)
    if broken := int((~found.isfinite()).sum()):
        raise CorruptError(
            f"the reward model gives {broken} of {len(found)} answers no finite score: its weights are damaged, "
            "or its precision is too low for them"
        )
    return found


def move(pack: Pack, device: torch.device) -> Pack:
    tensors: dict[str, Any] = {
        name: value.to(device) for name, value in vars(pack).items() if isinstance(value, Tensor)
    }
    return replace(pack, **tensors)


def _batches(lengths: Sequence[int]) -> Iterator[slice]:
    start = total = 0
    for index, length in enumerate(lengths):
        if index > start and total + length > TOKENS_AT_ONCE:
            yield slice(start, index)
            start, total = index, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))
