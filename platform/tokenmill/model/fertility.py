"""How finely a tokenizer cuts text: the fertility of Rust et al. (2021, "How good is your tokenizer?", §3), and its kin."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from tokenmill.model.tokenizer import Tokenizer

UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my", "bo"})
"""Languages that are written without spaces between words: of them there is no count of words."""
BATCH = 256
Domain = tuple[str, str]
"""Type and language of documents."""


@dataclass(frozen=True)
class Fertility:
    """What one tokenizer made of some texts."""

    documents: int
    bytes: int
    """Of UTF-8."""
    characters: int
    words: int | None
    """Runs of characters between whitespace; None where the language does not write words apart."""
    tokens: int
    fallbacks: int
    """Tokens that are one byte of a longer character."""

    @property
    def characters_per_token(self) -> float:
        return self.characters / max(1, self.tokens)

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(1, self.tokens)

    @property
    def tokens_per_word(self) -> float | None:
        return None if self.words is None else self.tokens / max(1, self.words)

    @property
    def fallback_share(self) -> float:
        return self.fallbacks / max(1, self.tokens)

    def to_json(self) -> dict[str, Any]:
        ratios = ("characters_per_token", "bytes_per_token", "tokens_per_word", "fallback_share")
        return asdict(self) | {name: getattr(self, name) for name in ratios}


def measure(tokenizer: Tokenizer, texts: Iterable[str], lang: str = "") -> Fertility:
    """Encode every text as a document of its own, without the tokens that begin and end it."""
    documents = size = characters = words = tokens = fallbacks = 0
    ahead = iter(texts)
    while batch := list(islice(ahead, BATCH)):
        documents += len(batch)
        size += sum(len(text.encode()) for text in batch)
        characters += sum(map(len, batch))
        words += sum(len(text.split()) for text in batch)
        for ids in tokenizer.encode_batch(batch):
            tokens += len(ids)
            fallbacks += sum(map(tokenizer.fallback_ids.__contains__, ids))
    spaced = lang.partition("-")[0] not in UNSPACED
    return Fertility(documents, size, characters, words if spaced else None, tokens, fallbacks)
