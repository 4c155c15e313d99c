"""A SentencePiece BPE file (`tokenizer.model`, as the released InternLM2 has) as a tokenizer of the Rust library.

Same ids, same encodings: pieces join in the order of their scores (`vocabulary.all_merges`), what no piece holds falls back
to bytes, a space is `▁`. What a file asks for beyond that changes or loses text, and is refused.

Of spare tokens `[UNUSED_TOKEN_i]` the highest become the chat, tool and reward tokens, as in the released models
(`<|im_start|>` is spare 146, id 92543). SentencePiece itself would take the text `[UNUSED_TOKEN_7]` for that token; here no
text becomes one.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from tokenmill.errors import InputError
from tokenmill.model.vocabulary import CHAT, RELEASED_SPARES, all_merges, spare_names, special

SPACE = "▁"
_BPE = 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_SPARE = re.compile(r"\[UNUSED_TOKEN_\d+\]")


def read_sentencepiece(path: Path) -> tokenizers.Tokenizer:
    """Read a BPE model with byte fallback.

    Raises:
        InputError: it is no such file, or it would not encode exactly as SentencePiece does.
    """
    model = _parse(path)
    if fault := _fault(model):
        raise InputError(f"{path}: {fault}; save it with transformers' save_pretrained and import that folder")
    names = _names(model)
    ordinary = [piece for piece in model.pieces if piece.type == _NORMAL and not _is_spare(piece)]
    by_score = sorted(ordinary, key=lambda piece: -piece.score)
    vocabulary = {name: id for id, name in enumerate(names)}
    merges = list(all_merges([piece.piece for piece in by_score]))
    made = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token=model.trainer_spec.unk_piece, fuse_unk=True, byte_fallback=True)
    )
    prefixed = model.normalizer_spec.add_dummy_prefix
    spaces = normalizers.Replace(" ", SPACE)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces] if prefixed else [spaces])
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", left=1)] if prefixed else [])
    )
    bos = model.trainer_spec.bos_piece
    if bos in vocabulary:
        begin = [(bos, vocabulary[bos])]
        made.post_processor = processors.TemplateProcessing(single=[bos, "$A"], special_tokens=begin)
    kinds = [(name, piece.type, _is_spare(piece)) for name, piece in zip(names, model.pieces, strict=True)]
    made.add_special_tokens([special(name) for name, kind, spare in kinds if kind in (_UNKNOWN, _CONTROL) or spare])
    # matched before anything is merged, where spaces are already `▁`
    symbols = [name for name, kind, spare in kinds if kind == _USER_DEFINED and not spare]
    made.add_tokens([AddedToken(name, normalized=True) for name in symbols])
    return made


def _parse(path: Path) -> Any:
    try:  # sentencepiece's own generated module asks for a newer protobuf than kfp allows
        schema: Any = import_module("transformers.utils.sentencepiece_model_pb2_new")
    except ImportError:
        raise InputError(f"{path} is read with transformers: `pip install 'tokenmill[train]'`") from None
    from google.protobuf.message import DecodeError

    model = schema.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        raise InputError(f"{path} is no SentencePiece model: fetch it again") from None
    return model


def _fault(model: Any) -> str:
    """Why the file cannot be taken over exactly; empty where it can."""
    text, how = model.normalizer_spec, model.trainer_spec
    types = {piece.type for piece in model.pieces}
    wanted = {f"<0x{byte:02X}>" for byte in range(256)}
    user_defined = any(piece.type == _USER_DEFINED and not _is_spare(piece) for piece in model.pieces)
    faults = {
        "not a BPE model": how.model_type != _BPE,
        "no byte fallback, so it loses text": not wanted.issubset(p.piece for p in model.pieces if p.type == _BYTE),
        f"its normalisation ({text.name}) changes text": bool(text.precompiled_charsmap),
        "it removes whitespace": text.remove_extra_whitespaces,
        "it does not write spaces as ▁": not text.escape_whitespaces,
        "it writes spaces behind words": how.treat_whitespace_as_suffix,
        "it has unused pieces": _UNUSED in types,
        "it has symbols of its users and a space before every text": user_defined and text.add_dummy_prefix,
    }
    return next((fault for fault, there in faults.items() if there), "")


def _names(model: Any) -> list[str]:
    """The pieces' names by id, of the spares the highest as the chat, tool and reward tokens."""
    names = [piece.piece for piece in model.pieces]
    spares = [id for id, piece in enumerate(model.pieces) if _is_spare(piece)]
    if len(spares) > len(CHAT) and not set(CHAT) & set(names):
        for id, name in zip(spares, spare_names(len(spares), released=len(spares) >= RELEASED_SPARES), strict=True):
            if not _SPARE.fullmatch(name):
                names[id] = name
    return names


def _is_spare(piece: Any) -> bool:
    return piece.type in (_NORMAL, _USER_DEFINED, _CONTROL) and bool(_SPARE.fullmatch(piece.piece))
