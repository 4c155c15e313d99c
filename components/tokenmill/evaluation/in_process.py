"""A model in this process, on CPU or GPU: losses in packed passes with common beginnings computed once, answers in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tokenmill.errors import InputError
from tokenmill.evaluation.backend import Answer, Ids, Loss, Sample, Sampling
from tokenmill.evaluation.config import EvaluateExecution
from tokenmill.model import IGNORE
from tokenmill.model.folder import load_model
from tokenmill.model.generation import generate
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.model.prefix_tree import LEAST, PrefixTree, sorted_by_beginning
from tokenmill.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class InProcess:
    """A loaded model."""

    model: InternLM2ForCausalLM
    execution: EvaluateExecution

    @classmethod
    def load(cls, weights: Path, execution: EvaluateExecution) -> "InProcess":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(load_model(weights, InternLM2ForCausalLM).to(device).eval(), execution)

    @property
    def context(self) -> int:
        return self.model.config.max_position_embeddings

    def check(self, tokenizer: Tokenizer) -> None:
        if self.model.config.vocab_size != tokenizer.vocab_size:
            raise InputError(
                f"the model has {self.model.config.vocab_size} token ids, the tokenizer {tokenizer.vocab_size}: "
                "give the tokenizer that it was trained with"
            )

    def losses(self, samples: Sequence[Sample]) -> list[Loss]:
        sequences = [np.asarray(sample.ids, dtype=np.int64) for sample in samples]
        counted = [np.asarray(sample.labels) != IGNORE for sample in samples]
        found: dict[int, Loss] = {}
        for group in self._passes(sequences):
            tree = PrefixTree.of([sequences[i] for i in group])
            for i, losses in zip(group, tree.losses(self.model, [counted[i] for i in group]), strict=True):
                found[i] = Loss(float(losses.double().sum()), len(losses))
        return [found[i] for i in range(len(samples))]

    def _passes(self, sequences: Sequence[np.ndarray[tuple[int], np.dtype[np.int64]]]) -> Iterator[list[int]]:
        """Which sequences share a pass: those that begin alike, as many as `batch_tokens` hold without what they share."""
        group: list[int] = []
        tokens = 0
        for i, shared in zip(*sorted_by_beginning(sequences), strict=True):
            own = len(sequences[i]) - (shared if shared >= LEAST else 0)
            if group and tokens + own > self.execution.batch_tokens:
                yield group
                group, tokens, own = [], 0, len(sequences[i])
            group.append(i)
            tokens += own
        if group:
            yield group

    def answers(self, prompts: Sequence[Ids], sampling: Sampling) -> list[Answer]:
        made = generate(
            self.model,
            prompts,
            max_new_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed,
            stop_ids=sampling.stop_ids,
            batch_size=self.execution.batch_rows,
        )
        return [Answer(one.tokens, one.finish == "stop") for one in made]
