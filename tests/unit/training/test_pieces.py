"""Pieces of pretraining data for later phases."""

from collections import Counter

import numpy
import pytest
from token_documents import Document, in_memory

from tokenmill.errors import InputError
from tokenmill.training.pieces import PretrainingPieces


def document(number: int, size: int, heldout: bool = False) -> Document:
    return Document(str(number), "book", numpy.arange(1000 * number, 1000 * number + size), heldout)


def test_every_token_is_as_likely_as_any_other():
    pieces = PretrainingPieces(in_memory(document(0, 200), document(1, 30), document(2, 70)), context=64)
    seen = Counter(t for piece in pieces.draw(300_000, numpy.random.default_rng(0)) for t in piece)
    assert len(seen) == 300
    assert min(seen.values()) / 1000 > 0.8 and max(seen.values()) / 1000 < 1.2


def test_pieces_stay_within_a_document_and_the_budget():
    drawn = PretrainingPieces(in_memory(document(0, 200), document(1, 30)), 64).draw(500, numpy.random.default_rng(1))
    assert 499 <= sum(map(len, drawn)) <= 500
    assert all(piece == list(range(piece[0], piece[0] + len(piece))) and len(piece) <= 64 for piece in drawn)


def test_held_out_documents_are_never_drawn():
    with pytest.raises(InputError, match="no documents"):
        PretrainingPieces(in_memory(document(0, 200, heldout=True)), 64)
