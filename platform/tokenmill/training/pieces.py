"""Pretraining data that later phases keep on reading: fine-tuning (report §4.3) and PPO's language-model gradient (§4.2.3)."""

from collections.abc import Iterable

import numpy

from tokenmill.errors import InputError
from tokenmill.training.tokens import Document


class PretrainingPieces:
    """Documents cut as in pretraining, every `context` tokens; each piece, and so each token, is as likely as any other."""

    def __init__(self, documents: Iterable[Document], context: int) -> None:
        self.pieces = [
            d.tokens[start : start + context]
            for d in documents
            if not d.heldout
            for start in range(0, len(d.tokens) - 1, context)
        ]
        if not self.pieces:
            raise InputError("the pretraining tokens hold no documents to train on")

    def draw(self, tokens: int, draw: numpy.random.Generator) -> list[list[int]]:
        """Pieces of `tokens` tokens together, or one fewer; the last is cut to that."""
        drawn: list[list[int]] = []
        while tokens > 1:
            drawn.append(self.pieces[int(draw.integers(len(self.pieces)))][:tokens].tolist())
            tokens -= len(drawn[-1])
        return drawn
