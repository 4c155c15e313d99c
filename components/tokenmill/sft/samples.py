"""Conversations as training samples: ChatML ids, with labels where the assistant speaks."""

from collections.abc import Iterable

from tokenmill.errors import InputError
from tokenmill.model import IGNORE
from tokenmill.model.chat import encode
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.records import Record
from tokenmill.training.data import Sample


def chat_samples(conversations: Iterable[Record], tokenizer: Tokenizer, max_length: int) -> list[Sample]:
    """One sample a conversation, cut on the right at `max_length`; one with nothing left to learn is left out."""
    samples = []
    for record in conversations:
        ids, labels = encode(record["messages"], tokenizer, tools=record.get("tools"), max_length=max_length)
        if any(label != IGNORE for label in labels):
            samples.append(Sample(ids, labels, record.get("source", "")))
    if not samples:
        raise InputError("no conversation has a turn of the assistant within the context: there is nothing to learn")
    return samples
