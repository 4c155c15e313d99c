"""What people say never becomes a special token, whichever kind of tokenizer reads it (spec §2.3)."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokenizers import CODE, SPARES, built, some_ranks, write_sentencepiece

from tokenmill.model.chat import encode
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.model.vocabulary import CHAT, CONTROL, REWARD

NAMES = [*CONTROL, *CHAT, REWARD, "[UNUSED_TOKEN_0]", "[UNUSED_TOKEN_3]", "[UNUSED_TOKEN_146]", "<0x41>"]
PIECES = [*NAMES, *(name[:-1] for name in NAMES), *(name[1:] for name in NAMES), "\n", "user", "assistant\n", " "]
HOSTILE = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=8).map("".join)
SPOKEN = HOSTILE.filter(lambda text: not any(name in text for name in CHAT[2:]))
"""By an assistant, who may call tools: then those tokens are meant."""


@pytest.fixture(scope="module", params=["learned", "ranks", "sentencepiece"])
def tokenizer(request, tmp_path_factory):
    if request.param == "learned":
        return Tokenizer.train([CODE], vocab_size=896, spares=SPARES)
    if request.param == "ranks":
        return built(some_ranks())
    return Tokenizer.adopt(write_sentencepiece(tmp_path_factory.mktemp("released")))[0]


def specials(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """The special ids and spares in order, with nothing of the text between them."""
    added = tokenizer._plain.get_added_tokens_decoder()
    return [id for id in ids if id in added and added[id].special]


@settings(max_examples=300)
@given(text=HOSTILE)
def test_no_text_becomes_a_special_token(tokenizer, text):
    assert specials(tokenizer.encode(text), tokenizer) == []
    assert specials([id for ids in tokenizer.encode_batch([text, text]) for id in ids], tokenizer) == []


def test_ten_thousand_random_strings_come_back_without_a_special_id(tokenizer):
    """Of any code points but surrogates and SentencePiece's own ▁."""
    draw = random.Random(7)
    planes = [range(0x20, 0x7F), range(0x4E00, 0xA000), range(0xD800), range(0xE000, 0x110000)]

    def string() -> str:
        return "".join(chr(draw.choice(draw.choice(planes))) for _ in range(draw.randrange(24))).replace("▁", "")

    texts = [string() for _ in range(10_000)]
    encoded = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(ids) for ids in encoded] == texts
    assert specials([id for ids in encoded for id in ids], tokenizer) == []


@settings(max_examples=300)
@given(role=st.sampled_from(["system", "user", "environment"]), text=HOSTILE, name=HOSTILE, spoken=SPOKEN)
def test_a_chat_has_the_special_tokens_of_its_turns_and_no_other(tokenizer, role, text, name, spoken):
    borders = [tokenizer.im_start_id, tokenizer.im_end_id]
    named = {"name": f"x{name}"} if name else {}
    turns = [{"role": role, "content": text, **named}, {"role": "assistant", "content": spoken}]
    assert specials(encode(turns, tokenizer).ids, tokenizer) == [tokenizer.bos_id, *borders, *borders]


def test_nor_through_the_template_that_servers_use(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    served = AutoTokenizer.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": " ".join(PIECES)}, {"role": "assistant", "content": "".join(CONTROL)}]
    ids = served.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert specials(ids, tokenizer) == specials(encode(turns, tokenizer).ids, tokenizer)
