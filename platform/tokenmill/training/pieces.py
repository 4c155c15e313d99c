"""Pretraining data that later phases keep on reading: fine-tuning (report §4.3) and PPO's language-model gradient (§4.2.3)."""

from collections.abc import Iterable

import numpy

from tokenmill.errors import InputError
from tokenmill.training.tokens import Document


class PretrainingPieces:
    """Draws pieces of documents, each token as likely as any other."""

    def __init__(self, documents: Iterable[Document], context: int) -> None:
        self.documents = [d.tokens for d in documents if not d.heldout and len(d.tokens) > 1]
        if not self.documents:
            raise InputError("the pretraining tokens hold no documents to train on")
        self.context = context
        self.ends = numpy.cumsum([len(tokens) for tokens in self.documents])

    def draw(self, tokens: int, draw: numpy.random.Generator) -> list[list[int]]:
        """Pieces of about `tokens` tokens together; a piece starts anywhere in a document and never leaves it."""
        pieces: list[list[int]] = []
        while tokens > 1:
            place = int(draw.integers(self.ends[-1]))
            index = int(numpy.searchsorted(self.ends, place, side="right"))
            start = place - int(self.ends[index]) + len(self.documents[index])
            piece = self.documents[index][start : start + min(self.context, tokens)].tolist()
            if len(piece) > 1:
                pieces.append(piece)
                tokens -= len(piece)
        return pieces
