"""Pretraining data that later phases keep on reading: fine-tuning (report §4.3) and PPO's language-model gradient (§4.2.3)."""

import numpy

from tokenmill.errors import InputError
from tokenmill.training.tokens import Documents


class PretrainingPieces:
    """Documents cut as in pretraining, every `context` tokens; each piece, and so each token, is as likely as any other."""

    def __init__(self, documents: Documents, context: int) -> None:
        self.documents, self.context = documents, context
        pieces = numpy.where(documents.heldout, 0, -(-(documents.length - 1) // context))
        self.until = numpy.cumsum(numpy.maximum(pieces, 0))
        """Pieces of a document and of all before it."""
        if not len(self.until) or not self.until[-1]:
            raise InputError("the pretraining tokens hold no documents to train on")

    def draw(self, tokens: int, draw: numpy.random.Generator) -> list[list[int]]:
        """Pieces of `tokens` tokens together, or one fewer; the last is cut to that."""
        drawn: list[list[int]] = []
        while tokens > 1:
            drawn.append(self._piece(int(draw.integers(self.until[-1])))[:tokens])
            tokens -= len(drawn[-1])
        return drawn

    def _piece(self, number: int) -> list[int]:
        document = int(numpy.searchsorted(self.until, number, side="right"))
        before = int(self.until[document - 1]) if document else 0
        ids: list[int] = self.documents.tokens(document, (number - before) * self.context)[: self.context].tolist()
        return ids
