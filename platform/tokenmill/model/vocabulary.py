"""Where a byte-level vocabulary comes from: learned from text, or from given ranks with a Chinese block on top.

    0 <unk>  1 <s>  2 </s> │ 3 … 258 the bytes │ base │ Chinese block │ [UNUSED_TOKEN_i] … <|im_end|> <|im_start|>

InternLM2's recipe (report §3.2.1): the first 60,004 of cl100k's tokens, 32,397 Chinese ones, 147 spares. These numbers
and three control tokens are 7 more than the 92,544 ids of the released models: the Chinese block takes what is left.

Pieces are written as GPT-2 does it, one printable character a byte.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

from tokenmill.errors import ConfigError, InputError

CONTROL = ("<unk>", "<s>", "</s>")
CHAT = ("<|im_start|>", "<|im_end|>", "<|action_start|>", "<|action_end|>", "<|interpreter|>", "<|plugin|>")
"""From the top of the vocabulary downwards."""
REWARD = "<|reward|>"
UNUSED = "[UNUSED_TOKEN_{}]"
RELEASED_SPARES = 147
MULTIPLE = 128
"""A vocabulary's size is a multiple of it (released models: 128 × 723)."""

# cl100k's words: contractions, letters with what stands before them, digits in threes, punctuation, whitespace.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHINESE = re.compile(
    "[\u2e80-\u2fdf\u3001-\u303f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff65\U00020000-\U000323af]"
)
"""Han, and the punctuation that is written between it."""
_PRIVATE = 0xF0000
"""Where Unicode's planes for private use begin: a base of up to 131,068 ids is written in them, a character a token."""

Merge = tuple[str, str]


class Vocabulary:
    """Pieces in the order of their ids, and the merges that make them in the order in which they are tried."""

    def __init__(self, merges: Sequence[Merge], pieces: Sequence[str] = (), *, whole_words: bool = False) -> None:
        """From the merges; `pieces` are those that are there whatever the merges, before all that these make.

        Args:
            whole_words: a word that is a piece is that piece, even where the merges would not lead to it (as tiktoken does).
        """
        self.merges, self.whole_words = list(merges), whole_words
        named = dict.fromkeys((*CONTROL, *byte_pieces(), *pieces))
        named |= dict.fromkeys(left + right for left, right in merges)
        self.pieces = {piece: id for id, piece in enumerate(named)}

    def __len__(self) -> int:
        return len(self.pieces)

    def assembled(self, vocab_size: int, spares: int) -> tokenizers.Tokenizer:
        """The tokenizer: unused tokens from the last piece up to `vocab_size`, the chat tokens at the top of them."""
        unused = range(len(self), vocab_size)
        names = spare_names(len(unused), released=spares >= RELEASED_SPARES)
        tokenizer = self._bare()
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        tokenizer.add_special_tokens([special(name) for name in (*CONTROL, *names)])
        return tokenizer

    def continued(self, texts: Iterable[str], most: int) -> Vocabulary:
        """This vocabulary and up to `most` new pieces that BPE, going on where this one ends, makes of Chinese words.

        A piece learned from bytes alone could not always be reached: the base's merges come first and may have put its
        bytes together otherwise. So the words are encoded by the base and the new merges join its tokens.
        """
        words = Counter(word for text in texts for word in self._words(text) if _CHINESE.search(word))
        bare = self._bare()
        encoded = zip(words.values(), bare.encode_batch_fast(list(words), add_special_tokens=False), strict=True)
        lines = [(count, "".join(chr(_PRIVATE + id) for id in encoding.ids)) for count, encoding in encoded]
        alphabet = {character for _, line in lines for character in line}
        learned = _learn(
            (f"{line} " * count for count, line in lines), len(alphabet) + most, pre_tokenizers.WhitespaceSplit()
        )
        known = list(self.pieces)

        def piece(private: str) -> str:
            return "".join(known[ord(character) - _PRIVATE] for character in private)

        more = [(piece(left), piece(right)) for left, right in learned]
        return Vocabulary([*self.merges, *more], known[len(CONTROL) :], whole_words=self.whole_words)

    def _bare(self) -> tokenizers.Tokenizer:
        tokenizer = tokenizers.Tokenizer(models.BPE(self.pieces, self.merges, ignore_merges=self.whole_words))
        tokenizer.pre_tokenizer = _words()
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    def _words(self, text: str) -> Iterator[str]:
        return (text[start:end] for _, (start, end) in _words().pre_tokenize_str(text))


def learned(texts: Iterable[str], size: int) -> Vocabulary:
    """A byte-level BPE of at most `size` pieces with the bytes."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return Vocabulary(_learn(texts, size, _words(), alphabet))


def ranked(tokens: Sequence[bytes]) -> Vocabulary:
    """The vocabulary of a rank file, or of its beginning: encodes as tiktoken does with the same ranks."""
    letters = byte_pieces()
    pieces = ["".join(letters[byte] for byte in token) for token in tokens]
    return Vocabulary(list(all_merges(pieces)), pieces, whole_words=True)


def read_ranks(path: Path) -> list[bytes]:
    """The tokens of a rank file in tiktoken's format, a line each: the token in base64, a space, its rank.

    Raises:
        InputError: a line is something else, or a rank is missing or there twice.
    """
    tokens: dict[int, bytes] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        token, _, rank = line.partition(b" ")
        try:
            decoded = base64.b64decode(token, validate=True)
            tokens[int(rank)] = decoded
        except (binascii.Error, ValueError):
            raise InputError(
                f"{path.name} line {number}: expected a token in base64 and its rank, as tiktoken's files have"
            ) from None
        if not decoded or len(tokens) != number:
            raise InputError(
                f"{path.name} line {number}: " + ("an empty token" if not decoded else f"rank {int(rank)} again")
            )
    if not tokens or set(tokens) != set(range(len(tokens))):
        raise InputError(f"{path.name}: the ranks must be 0, 1, 2 … without a gap; there are {len(tokens):,}")
    return [tokens[rank] for rank in range(len(tokens))]


def all_merges(pieces: Sequence[str]) -> Iterator[Merge]:
    """Every way to make each piece of two others, the pieces in order.

    tiktoken and SentencePiece know pieces and no merges: two neighbours join wherever together they are a piece, the
    first in the order before the others.
    """
    place = {piece: number for number, piece in enumerate(pieces)}
    for piece in pieces:
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        known = [pair for pair in halves if pair[0] in place and pair[1] in place]
        yield from sorted(known, key=lambda pair: (place[pair[0]], place[pair[1]]))


def check_size(vocab_size: int, spares: int, pieces: int = 256) -> int:
    """Ids that are left for pieces beside the control tokens and the spares.

    Raises:
        ConfigError: `pieces` do not fit, or the size is not a multiple of 128.
    """
    room = vocab_size - len(CONTROL) - spares
    if vocab_size % MULTIPLE or room < pieces or spares <= len(CHAT):
        what = "256 bytes" if pieces == 256 else f"{pieces:,} pieces"
        raise ConfigError(
            f"a vocabulary of {vocab_size} with {spares} spare tokens is not possible: it must be a multiple of {MULTIPLE}"
            f" and hold {len(CONTROL)} control tokens, {what} and more than {len(CHAT)} spares"
        )
    return room


def spare_names(count: int, *, released: bool) -> list[str]:
    """Names of so many spare ids from the lowest to the highest, the chat's and the reward's among them.

    The reward token is spare 130 where there are the released models' 147 spares, else the next below the chat's.
    """
    names = [UNUSED.format(index) for index in range(count)]
    names[count - len(CHAT) :] = reversed(CHAT)
    names[count - (17 if released else len(CHAT) + 1)] = REWARD
    return names


def special(name: str) -> AddedToken:
    """A token that no text becomes."""
    return AddedToken(name, special=True, normalized=False)


def byte_pieces() -> list[str]:
    """The printable character that stands for each byte, 0 to 255 (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]


def _words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _learn(
    texts: Iterable[str], size: int, words: pre_tokenizers.PreTokenizer, alphabet: Sequence[str] = ()
) -> list[Merge]:
    """The merges of a BPE of at most `size` pieces, its alphabet among them; what is there once is not merged."""
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = words
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=list(alphabet), min_frequency=2, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
