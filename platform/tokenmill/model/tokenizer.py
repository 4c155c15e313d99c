"""Byte-level BPE with InternLM2's layout: control tokens first, spares last, chat tokens on top (report §3.2.1).

    0 <unk>  1 <s>  2 </s> │ 3 … 258 the bytes │ learned pieces │ [UNUSED_TOKEN_i] … <|im_end|> <|im_start|>

Text can never become a special token: `encode` takes `<|im_end|>` for ordinary characters. Only `tokenmill.model.chat`
inserts special tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
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

# cl100k's words: contractions, letters with what stands before them, digits in threes, punctuation, whitespace.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Text to ids and back, for every Unicode string."""

    def __init__(self, serialized: str) -> None:
        """From the text of a tokenizer.json; see `train` and `load`."""
        self._serialized = serialized
        self._plain = tokenizers.Tokenizer.from_str(serialized)
        self._plain.encode_special_tokens = True  # that is: encode special tokens' names as if they were any text
        self.vocab_size: int = self._plain.get_vocab_size()
        added = {token.content: id for id, token in self._plain.get_added_tokens_decoder().items()}
        self.special: dict[str, int] = {name: added[name] for name in (*CONTROL, *CHAT, REWARD) if name in added}
        self.unk_id, self.bos_id, self.eos_id = (self.special[name] for name in CONTROL)
        self.pad_id = self.eos_id
        self.im_start_id, self.im_end_id = self.special[CHAT[0]], self.special[CHAT[1]]
        self.reward_id = self.special[REWARD]
        self.stop_ids = (self.eos_id, self.im_end_id)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, spares: int = 16) -> Tokenizer:
        """Learn a vocabulary of `vocab_size` ids, exactly; what a small corpus cannot fill becomes unused tokens."""
        room = vocab_size - len(CONTROL) - spares
        if vocab_size % 128 or room < 256 or spares <= len(CHAT):
            raise ConfigError(
                f"a vocabulary of {vocab_size} with {spares} spare tokens is not possible: it must be a multiple of 128"
                f" and hold {len(CONTROL)} control tokens, 256 bytes and more than {len(CHAT)} spares"
            )
        learner = tokenizers.Tokenizer(models.BPE())
        learner.pre_tokenizer = _words()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=room, initial_alphabet=alphabet, min_frequency=2, show_progress=False)
        learner.train_from_iterator(texts, trainer)
        merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
        return cls(_assemble(merges, vocab_size, spares).to_str())

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """Read what `save` wrote."""
        file = Path(folder) / "tokenizer.json"
        if not file.is_file():
            raise InputError(f"no tokenizer in {folder}: expected {file.name}")
        return cls(file.read_text("utf-8"))

    def save(self, folder: Path | str) -> None:
        """Write what transformers and vLLM load as it is, and special_tokens.json for everybody else."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        unk, bos, eos = CONTROL
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": unk,
            "bos_token": bos,
            "eos_token": eos,
            "pad_token": eos,
            "additional_special_tokens": [*CHAT, REWARD],
            "clean_up_tokenization_spaces": False,
        }
        template = Path(__file__).with_name("chat_template.jinja").read_text("utf-8")
        (folder / "tokenizer.json").write_text(self._serialized, "utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
        (folder / "special_tokens.json").write_text(json.dumps(self.special, indent=2) + "\n", "utf-8")
        (folder / "chat_template.jinja").write_text(template, "utf-8")

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as plain text: no special token comes out, whatever it says, and none is added."""
        return self._plain.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, on all threads that tokenizers may use (`RAYON_NUM_THREADS`)."""
        return [encoding.ids for encoding in self._plain.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """The text of `ids`; special tokens by name unless skipped, bytes that are no UTF-8 as U+FFFD."""
        return self._plain.decode(list(ids), skip_special_tokens=skip_special)

    def __len__(self) -> int:
        return self.vocab_size

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[str]]:
        return Tokenizer, (self._serialized,)  # the flag that makes encode safe does not survive pickling


def _words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _assemble(merges: list[tuple[str, str]], vocab_size: int, spares: int) -> tokenizers.Tokenizer:
    """Lay out the ids: control tokens, bytes by value, learned pieces in the order of merging, spares to the top."""
    vocabulary = {piece: id for id, piece in enumerate((*CONTROL, *_byte_pieces()))}
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    unused = range(len(vocabulary), vocab_size)
    names = {id: UNUSED.format(index) for index, id in enumerate(unused)}
    names |= {vocab_size - 1 - index: name for index, name in enumerate(CHAT)}
    # The released reward models read spare 130 of 147; with fewer spares the next one under the chat tokens.
    names[vocab_size - (17 if spares >= RELEASED_SPARES else len(CHAT) + 1)] = REWARD

    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = _words()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([_special(name) for name in (*CONTROL, *(names[id] for id in unused))])
    return tokenizer


def _special(name: str) -> AddedToken:
    return AddedToken(name, special=True, normalized=False)


def _byte_pieces() -> list[str]:
    """The printable character that stands for each byte, 0 to 255 (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]
