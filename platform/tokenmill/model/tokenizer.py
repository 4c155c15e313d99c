"""Text to ids and back, for every Unicode string, with InternLM2's special tokens (report §3.2.1).

Three kinds of vocabulary, one behaviour: learned from the corpus, built on given ranks with a Chinese block
(`tokenmill.model.vocabulary`), or of other making (`adopt`), which keeps its ids.

Text can never become a special token: `encode` takes `<|im_end|>` for ordinary characters. Only `tokenmill.model.chat`
inserts special tokens.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from tokenmill.errors import ConfigError, InputError
from tokenmill.model.vocabulary import (
    CHAT,
    CONTROL,
    MULTIPLE,
    REWARD,
    UNUSED,
    byte_pieces,
    check_size,
    learned,
    ranked,
    special,
)

FILE, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
SENTENCEPIECE = "tokenizer.model"

# What other families begin and end a document with, where their tokenizer_config.json names only a turn's borders.
_BEGINNINGS = (CONTROL[1], "<|begin_of_text|>", "<|endoftext|>")
_ENDS = (CONTROL[2], "<|end_of_text|>", "<|endoftext|>")
_PROBES = ("The  quick\tfox.\n\n  def f(x): return x+1", "naïve 语言模型 🦊 عربى", "\u200b\ufeff\x00", "1234567.89")
"""Texts that a tokenizer must give back: spaces, scripts, bytes that no vocabulary holds as a piece."""


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
        room = check_size(vocab_size, spares)
        return cls(learned(texts, room).assembled(vocab_size, spares).to_str())

    @classmethod
    def build(
        cls,
        ranks: Sequence[bytes],
        chinese: Iterable[str],
        *,
        vocab_size: int,
        spares: int,
        base_tokens: int,
        chinese_tokens: int,
    ) -> tuple[Tokenizer, int]:
        """InternLM2's recipe: the first of given ranks, a Chinese block learned on top; and the block's size.

        Args:
            ranks: tokens in the order of their rank (see `vocabulary.read_ranks`), cl100k's in the report.
            chinese: texts that the block is learned from; only their words with Han or its punctuation count.
            base_tokens: how many of `ranks` are taken; single bytes among them count.
            chinese_tokens: pieces of the block at most; it is smaller where the vocabulary or the text holds no more.

        Raises:
            ConfigError: the vocabulary does not hold the base, or the ranks are fewer.
        """
        if base_tokens > len(ranks):
            raise ConfigError(
                f"the rank file has {len(ranks):,} tokens, not {base_tokens:,}: lower pretraining.train_tokenizer.base_tokens"
            )
        vocabulary = base = ranked(ranks[:base_tokens])
        room = check_size(vocab_size, spares, len(base) - len(CONTROL)) - len(base) + len(CONTROL)
        if most := min(chinese_tokens, room):
            vocabulary = base.continued(chinese, most)
        return cls(vocabulary.assembled(vocab_size, spares).to_str()), len(vocabulary) - len(base)

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
            folder: holds tokenizer.json or a SentencePiece tokenizer.model, and tokenizer_config.json where there is one.
            rows: of the model's embedding: the vocabulary is not smaller.

        Raises:
            InputError: there is no tokenizer, its ids have gaps, it has more ids than the model rows, or it loses text
                (it is neither byte-level nor falls back to bytes).
        """
        raw = read_raw(folder)
        text = raw.to_str()
        known = raw.get_vocab_size()
        if known != max(raw.get_vocab().values()) + 1:
            raise InputError(f"the tokenizer in {folder} leaves ids unused below its highest: it cannot be extended")
        if rows and known > rows:
            raise InputError(f"the tokenizer in {folder} has {known} ids, the model {rows} rows: they do not belong")
        settings = _settings(Path(folder))
        bos = _document_border(raw, settings.get("bos_token"), _BEGINNINGS)
        eos = _document_border(raw, settings.get("eos_token"), _ENDS)
        known_special = {token.content for token in raw.get_added_tokens_decoder().values() if token.special}
        from_top = list(dict.fromkeys([*CHAT, REWARD, eos, bos]))
        missing = [name for name in from_top if raw.token_to_id(name) is None]
        size = -(-max(rows, known + len(missing)) // MULTIPLE) * MULTIPLE
        if size > known or not known_special.issuperset(from_top):
            raw.no_truncation()
            raw.no_padding()
            free = (name for name in map(UNUSED.format, itertools.count()) if raw.token_to_id(name) is None)
            spares = list(itertools.islice(free, size - known - len(missing)))
            present = [name for name in from_top if name not in missing]
            raw.add_special_tokens([special(name) for name in (*present, *spares, *reversed(missing))])
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

    @cached_property
    def fallback_ids(self) -> frozenset[int]:
        """Ids of one byte that is only part of a character: what a text falls back to where no piece holds a character."""
        pieces = (
            byte_pieces() if self._plain.token_to_id("<0x80>") is None else [f"<0x{byte:02X}>" for byte in range(256)]
        )
        ids = (self._plain.token_to_id(pieces[byte]) for byte in range(0x80, 0x100))
        return frozenset(id for id in ids if id is not None)

    def __len__(self) -> int:
        return self.vocab_size

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[str, str, str]]:
        return Tokenizer, (
            self._serialized,
            self._bos,
            self._eos,
        )  # the flag that makes encode safe does not survive pickling


def read_raw(folder: Path | str) -> tokenizers.Tokenizer:
    """The tokenizer of a folder as its makers have it, from tokenizer.json or, where there is none, tokenizer.model.

    Raises:
        InputError: there is neither, or it cannot be read.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file() and (folder / SENTENCEPIECE).is_file():
        from tokenmill.model.sentencepiece import read_sentencepiece

        return read_sentencepiece(folder / SENTENCEPIECE)
    try:
        return tokenizers.Tokenizer.from_str(_file(folder).read_text("utf-8"))
    except InputError:
        raise
    except Exception as failure:  # the library raises nothing more special
        raise InputError(f"{folder / FILE} is not a tokenizer ({failure}): fetch it again") from None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a tokenizer that `adopt` may read."""
    return (folder / FILE).is_file() or (folder / SENTENCEPIECE).is_file()


def _file(folder: Path | str) -> Path:
    file = Path(folder) / FILE
    if not file.is_file():
        raise InputError(f"no tokenizer in {folder}: expected {FILE} or {SENTENCEPIECE}")
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
