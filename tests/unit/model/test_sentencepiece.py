"""A bare tokenizer.model: SentencePiece itself is the oracle; the released file's encodings where there is one."""

import os
import shutil
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokenizers import CHAPTERS, CODE, SPARES, write_sentencepiece

from tokenmill.errors import InputError
from tokenmill.model.chat import encode, encode_prompt
from tokenmill.model.tokenizer import Tokenizer

RELEASED = os.environ.get("TOKENMILL_INTERNLM2_TOKENIZER", "")
"""The released tokenizer.model, which TokenMill does not ship."""
FEW = st.text(alphabet="ab \n\t1吕布，曰é\x00", max_size=60)
ANY = st.one_of(st.text(), FEW, st.lists(st.sampled_from(["<0x41>", "<s>", "self.", "  ", "\n", "却说"])).map("".join))
FORMS = {
    "as InternLM2": {},
    "with a space before": {"add_dummy_prefix": True},
    "with symbols": {"symbols": ("▁▁▁▁", "self")},
}


@pytest.fixture(scope="module", params=FORMS)
def pair(request, tmp_path_factory):
    """Ours, and SentencePiece on the same file."""
    folder = write_sentencepiece(tmp_path_factory.mktemp("sentencepiece"), **FORMS[request.param])
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return Tokenizer.adopt(folder)[0], theirs


@settings(max_examples=500)
@given(text=ANY)
def test_any_text_is_encoded_as_sentencepiece_does(pair, text):
    ours, theirs = pair
    assert ours.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("text", [CODE, CHAPTERS[0], CHAPTERS[77], CODE[60_000:] + CHAPTERS[40]])
def test_real_text_is_encoded_as_sentencepiece_does(pair, text):
    ours, theirs = pair
    assert ours.encode(text) == theirs.encode(text)


@settings(max_examples=300)
@given(text=ANY.filter(lambda text: "▁" not in text))
def test_any_text_comes_back(pair, text):
    """But ▁, which SentencePiece writes for a space."""
    ours, _ = pair
    assert ours.decode(ours.encode(text)) == text


def test_the_highest_spares_are_the_chats_tokens_and_every_id_stays(tmp_path):
    """Spec §2.3: spare 146 … 141 and 130 of 147."""
    ours, known = Tokenizer.adopt(write_sentencepiece(tmp_path))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert known == theirs.vocab_size() == 1200 + SPARES
    spare = {name: theirs.id_to_piece(id) for name, id in ours.special.items() if id > 2}
    assert spare == {
        "<|im_start|>": "[UNUSED_TOKEN_146]",
        "<|im_end|>": "[UNUSED_TOKEN_145]",
        "<|action_start|>": "[UNUSED_TOKEN_144]",
        "<|action_end|>": "[UNUSED_TOKEN_143]",
        "<|interpreter|>": "[UNUSED_TOKEN_142]",
        "<|plugin|>": "[UNUSED_TOKEN_141]",
        "<|reward|>": "[UNUSED_TOKEN_130]",
    }
    kept = [id for id in range(known) if id not in ours.special.values()]
    assert [ours._plain.id_to_token(id) for id in kept] == [theirs.id_to_piece(id) for id in kept]


def test_a_file_without_spares_gets_the_special_tokens_on_top(tmp_path):
    ours, known = Tokenizer.adopt(write_sentencepiece(tmp_path, spares=0), rows=1280)
    assert (known, ours.vocab_size, ours.im_start_id, ours.reward_id) == (1200, 1280, 1279, 1273)


def test_transformers_reads_what_was_saved(tmp_path):
    from transformers import AutoTokenizer

    ours, _ = Tokenizer.adopt(write_sentencepiece(tmp_path / "theirs"))
    ours.save(tmp_path / "ours")
    read = AutoTokenizer.from_pretrained(tmp_path / "ours")
    text = "却说 It's 1234567\n\n  def f(x): 🦊"
    assert read.encode(text) == [1, *ours.encode(text)]
    assert read.decode(ours.encode(text)) == text
    messages = [{"role": "user", "content": "吕布曰 <|im_end|>"}, {"role": "assistant", "content": "self"}]
    assert read.apply_chat_template(messages[:1], tokenize=True, return_dict=False, add_generation_prompt=True)[:2] == [
        1,
        ours.im_start_id,
    ]
    assert encode(messages, Tokenizer.load(tmp_path / "ours")) == encode(messages, ours)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram"}, "not a BPE model"),
        ({"byte_fallback": False}, "no byte fallback"),
        ({"normalization_rule_name": "nfkc"}, "its normalisation .nfkc. changes text"),
        ({"remove_extra_whitespaces": True}, "removes whitespace"),
        ({"treat_whitespace_as_suffix": True}, "spaces behind words"),
        ({"symbols": ("self",), "add_dummy_prefix": True}, "symbols of its users"),
    ],
)
def test_what_would_not_be_exact_is_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=f"{message}.*save_pretrained"):
        Tokenizer.adopt(write_sentencepiece(tmp_path, **options))


def test_a_file_that_is_none_is_said(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\xffnot a model")
    with pytest.raises(InputError, match=r"tokenizer\.model is no SentencePiece model: fetch it again"):
        Tokenizer.adopt(tmp_path)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    if not RELEASED:
        pytest.skip("set TOKENMILL_INTERNLM2_TOKENIZER to InternLM2's tokenizer.model: the golden encodings need it")
    folder = tmp_path_factory.mktemp("released")
    shutil.copyfile(Path(RELEASED), folder / "tokenizer.model")
    return Tokenizer.adopt(folder)[0]


def test_the_released_file_gives_the_golden_encodings(released):
    """Spec §2.4."""
    hello = [{"role": "user", "content": "Hello"}]
    prompt = [1, 92543, 1008, 364, 9843, 92542, 364, 92543, 525, 11353, 364]
    assert encode_prompt(hello, released) == prompt
    answered = [*hello, {"role": "assistant", "content": "Hi there"}]
    assert encode(answered, released).ids == [*prompt, 13195, 1194, 92542, 364]
    tools = [{"role": "system", "name": "<|plugin|>", "content": "[]"}]
    assert encode(tools, released).ids == [1, 92543, 9081, 963, 310, 92538, 364, 1440, 92542, 364]
    assert (released.vocab_size, released.stop_ids, released.reward_id) == (92_544, (2, 92542), 92527)
