"""Training samples: conversations as ChatML with labels where the assistant speaks, and pieces of pretraining data."""

from collections.abc import Iterable, Sequence

import numpy

from tokenmill.errors import InputError
from tokenmill.model import IGNORE
from tokenmill.model.chat import encode
from tokenmill.model.conversation import flaw
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.records import Record
from tokenmill.sft.config import SFTTrainConfig
from tokenmill.training.data import Sample
from tokenmill.training.pieces import PretrainingPieces
from tokenmill.training.tokens import Documents


def chat_samples(conversations: Iterable[Record], tokenizer: Tokenizer, max_length: int) -> tuple[list[Sample], int]:
    """One sample a conversation, cut on the right at `max_length`; and how many were left out, with nothing left to learn.

    Raises:
        InputError: a record is no conversation (`sft.prepare` sets such ones aside), or none has anything to learn.
    """
    samples, left_out = [], 0
    for record in conversations:
        if why := flaw(record["messages"], record.get("tools")):
            raise InputError(f"conversation {record.get('id', '')!r}: {why}: mend it, or let sft.prepare set it aside")
        ids, labels = encode(record["messages"], tokenizer, tools=record.get("tools"), max_length=max_length)
        if any(label != IGNORE for label in labels):
            samples.append(Sample(ids, labels, record.get("source", "")))
        else:
            left_out += 1
    if not samples:
        raise InputError("no conversation has a turn of the assistant within the context: there is nothing to learn")
    return samples, left_out


def pretraining_samples(tokens: Documents, chats: Sequence[Sample], config: SFTTrainConfig) -> list[Sample]:
    """Pieces of pretraining data, as many tokens as its share beside `chats` asks for: what Base knows is kept (§4.3)."""
    share = config.pretraining_share
    wanted = round(sum(map(len, chats)) * share / (1 - share))
    if not wanted:
        return []
    pieces = PretrainingPieces(tokens.of_types(config.pretraining_types), config.context)
    drawn = pieces.draw(wanted, numpy.random.default_rng(config.seed))
    return [Sample(ids, source="pretraining") for ids in drawn]
