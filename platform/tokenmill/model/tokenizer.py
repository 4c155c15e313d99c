"""Byte-level BPE with InternLM2's layout: control tokens first, spares last, chat tokens on top (report §3.2.1).

    0 <unk>  1 <s>  2 </s> │ 3 … 258 the bytes │ learned pieces │ [UNUSED_TOKEN_i] … <|im_end|> <|im_start|>

Text can never become a special token: `encode` takes `<|im_end|>` for ordinary characters. Only `tokenmill.model.chat`
inserts special tokens.

A tokenizer of other making keeps its ids; what it lacks of the chat tokens comes on top (see `adopt`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
FILE, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"

# What other families begin and end a document with, where their tokenizer_config.json names only a turn's borders.
_BEGINNINGS = (CONTROL[1], "<|begin_of_text|>", "<|endoftext|>")
_ENDS = (CONTROL[2], "<|end_of_text|>", "<|endoftext|>")
_PROBES = ("The  quick\tfox.\n\n  def f(x): return x+1", "naïve 语言模型 🦊 عربى", "\u200b\ufeff\x00", "1234567.89")
"""Texts that a tokenizer must give back: spaces, scripts, bytes that no vocabulary holds as a piece."""

# cl100k's words: contractions, letters with what stands before them, digits in threes, punctuation, whitespace.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Text to ids and back, for every Unicode string."""

    def __init__(self, serialized: str, bos: str = CONTROL[1], eos: str = CONTROL[2]) -> None:
        """From the text of a tokenizer.json and the tokens that begin and end a document; see `train` and `load`.

        Raises:
            InputError: a special token that chats or rewards need is missing.
        """
        self._serialized, self._bos, self._eos = serialized, bos, eos
        self._plain = tokenizers.Tokenizer.from_str(serialized)
        self._plain.encode_special_tokens = True  # that is: encode special tokens' names as if they were any text
        self.vocab_size: int = self._plain.get_vocab_size()
        added = {t.content: id for id, t in sorted(self._plain.get_added_tokens_decoder().items()) if t.special}
        if lost := [name for name in (bos, eos, *CHAT, REWARD) if name not in added]:
            raise InputError(f"the tokenizer lacks {', '.join(lost)}: bring it in with `tokenmill model import`")
        named = [name for name in (*CONTROL, *CHAT, REWARD) if name in added]
        others = [name for name in added if name not in named and not _is_spare(name)]
        self.special: dict[str, int] = {name: added[name] for name in (*named, *others)}
        """Every special token but the spares, by name."""
        self.bos_id, self.eos_id = self.special[bos], self.special[eos]
        self.pad_id = self.eos_id
        self.im_start_id, self.im_end_id = self.special[CHAT[0]], self.special[CHAT[1]]
        self.reward_id = self.special[REWARD]
        self.stop_ids = (self.eos_id, self.im_end_id)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, spares: int = 16) -> Tokenizer:
        """Learn a vocabulary of `vocab_size` ids, exactly; what a small corpus cannot fill becomes unused tokens."""
        room = vocab_size - len(CONTROL) - spares
        if vocab_size % MULTIPLE or room < 256 or spares <= len(CHAT):
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
        """Read what `save` wrote.

        Raises:
            InputError: there is no tokenizer, or it has not the special tokens that chats need (see `adopt`).
        """
        settings = _settings(Path(folder))
        bos, eos = (_content(settings.get(role)) for role in ("bos_token", "eos_token"))
        return cls(_file(folder).read_text("utf-8"), bos or CONTROL[1], eos or CONTROL[2])

    @classmethod
    def adopt(cls, folder: Path | str, rows: int = 0) -> tuple[Tokenizer, int]:
        """A tokenizer of any making, with every special token that it lacks on top; and how many ids it had itself.

        Its own ids stay. Above them come spares, up to a multiple of 128, and at the top, as in InternLM2, what is
        missing of the chat, tool and reward tokens. The tokens that begin and end a document are those that
        tokenizer_config.json names, unless they border a chat's turn (SmolLM2-Instruct's do): then `<s>`, `</s>` or the
        family's `<|endoftext|>`. A complete tokenizer comes back as it is.

        Args:
            folder: holds tokenizer.json, and tokenizer_config.json where there is one.
            rows: of the model's embedding: the vocabulary is not smaller.

        Raises:
            InputError: there is no tokenizer.json, its ids have gaps, it has more ids than the model rows, or it loses
                text (it is neither byte-level nor falls back to bytes).
        """
        text = _file(folder).read_text("utf-8")
        try:
            raw = tokenizers.Tokenizer.from_str(text)
        except Exception as failure:  # the library raises nothing more special
            raise InputError(f"{Path(folder) / FILE} is not a tokenizer ({failure}): fetch it again") from None
        known = raw.get_vocab_size()
        if known != max(raw.get_vocab().values()) + 1:
            raise InputError(f"the tokenizer in {folder} leaves ids unused below its highest: it cannot be extended")
        if rows and known > rows:
            raise InputError(f"the tokenizer in {folder} has {known} ids, the model {rows} rows: they do not belong")
        settings = _settings(Path(folder))
        bos = _document_border(raw, settings.get("bos_token"), _BEGINNINGS)
        eos = _document_border(raw, settings.get("eos_token"), _ENDS)
        special = {token.content for token in raw.get_added_tokens_decoder().values() if token.special}
        from_top = list(dict.fromkeys([*CHAT, REWARD, eos, bos]))
        missing = [name for name in from_top if raw.token_to_id(name) is None]
        size = -(-max(rows, known + len(missing)) // MULTIPLE) * MULTIPLE
        if size > known or not special.issuperset(from_top):
            raw.no_truncation()
            raw.no_padding()
            free = (name for name in map(UNUSED.format, itertools.count()) if raw.token_to_id(name) is None)
            spares = list(itertools.islice(free, size - known - len(missing)))
            present = [name for name in from_top if name not in missing]
            raw.add_special_tokens([_special(name) for name in (*present, *spares, *reversed(missing))])
            begin = [(bos, raw.token_to_id(bos))]
            raw.post_processor = processors.TemplateProcessing(single=[bos, "$A"], special_tokens=begin)
            text = raw.to_str()
        adopted = cls(text, bos, eos)
        for probe in _PROBES:
            if adopted.decode(adopted.encode(probe)) != probe:
                raise InputError(
                    f"the tokenizer in {folder} does not give {probe!r} back: it must be byte-level or fall back to bytes"
                )
        return adopted, known

    def save(self, folder: Path | str) -> None:
        """Write what transformers and vLLM load as it is, and special_tokens.json for everybody else."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        roles = (CONTROL[0], self._bos, self._eos)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **({"unk_token": CONTROL[0]} if CONTROL[0] in self.special else {}),
            "bos_token": self._bos,
            "eos_token": self._eos,
            "pad_token": self._eos,
            "additional_special_tokens": [name for name in self.special if name not in roles],
            "clean_up_tokenization_spaces": False,
        }
        (folder / FILE).write_text(self._serialized, "utf-8")
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
        (folder / "special_tokens.json").write_text(json.dumps(self.special, indent=2) + "\n", "utf-8")
        (folder / TEMPLATE).write_text(self.chat_template(), "utf-8")

    def chat_template(self) -> str:
        """The Jinja template of our ChatML, which breaks the name of every special token in what people say."""
        text = Path(__file__).with_name(TEMPLATE).read_text("utf-8")
        others = [name for name in self.special if name not in (*CONTROL, *CHAT, REWARD)]
        spares = "'[UNUSED_TOKEN_']"
        return text.replace(spares, ", ".join([json.dumps(name, ensure_ascii=False) for name in others] + [spares]))

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

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[str, str, str]]:
        return Tokenizer, (
            self._serialized,
            self._bos,
            self._eos,
        )  # the flag that makes encode safe does not survive pickling


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


def _file(folder: Path | str) -> Path:
    file = Path(folder) / FILE
    if not file.is_file():
        raise InputError(f"no tokenizer in {folder}: expected {file.name}")
    return file


def _settings(folder: Path) -> dict[str, Any]:
    """The values of tokenizer_config.json; none where there is no such file."""
    file = folder / SETTINGS
    try:
        return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else {}
    except (ValueError, TypeError):
        raise InputError(f"{file} is not a JSON object: fetch or write it again") from None


def _content(token: Any) -> str | None:
    """A token's name, as tokenizer_config.json writes it: text, or an object with the text as its content."""
    return token.get("content") if isinstance(token, dict) else token


def _document_border(raw: tokenizers.Tokenizer, named: Any, usual: Sequence[str]) -> str:
    """The first of the named token and the usual ones that the tokenizer has; a turn's borders do not count."""
    candidates = [name for name in (_content(named), *usual) if name and name not in CHAT]
    return next((name for name in candidates if raw.token_to_id(name) is not None), usual[0])


def _is_spare(name: str) -> bool:
    return name.startswith(UNUSED.partition("{")[0])


def _special(name: str) -> AddedToken:
    return AddedToken(name, special=True, normalized=False)


def _byte_pieces() -> list[str]:
    """The printable character that stands for each byte, 0 to 255 (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]
