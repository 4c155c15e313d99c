"""Given ranks with a Chinese block on top (report §3.2.1). tiktoken is the oracle of the base."""

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokenizers import CHAPTERS, CODE, SPARES, built, some_ranks, write_ranks

from tokenmill.errors import ConfigError, InputError
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.model.vocabulary import CONTROL, all_merges, byte_pieces, read_ranks

# cl100k_base's own words, as tiktoken 0.14 writes them
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
CUT = 1200
FEW = st.text(alphabet="ab \n'sS1吕布，。曰", max_size=60)
ANY = st.one_of(st.text(), FEW)


@pytest.fixture(scope="module")
def ranks():
    return some_ranks()


@pytest.fixture(scope="module")
def base(ranks):
    """The first of the ranks alone: what comes after them is not there."""
    return Tokenizer.build(ranks, [], vocab_size=2560, spares=SPARES, base_tokens=CUT, chinese_tokens=0)[0]


@pytest.fixture(scope="module")
def oracle(ranks):
    """Text → our ids, by tiktoken. Bytes come first in our layout, by value; then the others by rank."""
    first = ranks[:CUT]
    encoding = tiktoken.Encoding(
        "test", pat_str=CL100K, mergeable_ranks={t: i for i, t in enumerate(first)}, special_tokens={}
    )
    longer = [token for token in first if len(token) > 1]
    place = {bytes([byte]): 3 + byte for byte in range(256)} | {token: 259 + i for i, token in enumerate(longer)}
    return lambda text: [place[first[rank]] for rank in encoding.encode_ordinary(text)]


@pytest.fixture(scope="module")
def tokenizer(ranks):
    return built(ranks)


@settings(max_examples=600)
@given(text=ANY)
def test_the_base_alone_encodes_any_text_as_tiktoken_does(base, oracle, text):
    assert base.encode(text) == oracle(text)


@pytest.mark.parametrize("text", [CODE, CHAPTERS[0], CHAPTERS[40], CODE[60_000:] + CHAPTERS[77]])
def test_the_base_alone_encodes_real_text_as_tiktoken_does(base, oracle, text):
    assert base.encode(text) == oracle(text)


@settings(max_examples=200)
@given(
    parts=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=12, unique=True),
    text=st.text("ab ", max_size=30),
)
def test_ranks_of_any_making_encode_as_tiktoken_does_where_every_token_can_be_reached(parts, text):
    """Also tokens that two ways lead to, and tokens that none does but being the whole word."""
    ranks = [bytes([byte]) for byte in range(256)] + [part.encode() for part in parts if len(part) > 1]
    encoding = tiktoken.Encoding(
        "t", pat_str=CL100K, mergeable_ranks={t: i for i, t in enumerate(ranks)}, special_tokens={}
    )
    ours = Tokenizer.build(ranks, [], vocab_size=512, spares=16, base_tokens=len(ranks), chinese_tokens=0)[0]
    assert ours.encode(text) == [3 + rank for rank in encoding.encode_ordinary(text)]


def test_ids_lie_as_in_the_report(tokenizer, ranks):
    """Control, bytes, base by rank, Chinese block, spares; the chat's tokens at the top, reward at spare 130."""
    longer = [token for token in ranks if len(token) > 1]
    assert [tokenizer._plain.id_to_token(id) for id in (0, 1, 2)] == list(CONTROL)
    letters = byte_pieces()
    for id, token in enumerate(longer, 259):
        assert tokenizer._plain.id_to_token(id) == "".join(letters[byte] for byte in token)
    block = range(259 + len(longer), 2560)
    spares = [id for id in block if (tokenizer._plain.id_to_token(id) or "").startswith("[UNUSED_TOKEN_")]
    assert len(block) - len(spares) - 7 == 400
    assert (tokenizer.im_start_id, tokenizer.special["<|plugin|>"], tokenizer.reward_id) == (2559, 2554, 2560 - 17)


def test_the_block_compresses_chinese_and_leaves_the_rest_alone(tokenizer, ranks):
    base = built(ranks, chinese_tokens=0)
    unseen = "".join(CHAPTERS[60:64])
    before, after = len(unseen) / len(base.encode(unseen)), len(unseen) / len(tokenizer.encode(unseen))
    assert after > 1.1 * before
    assert tokenizer.encode(CODE) == base.encode(CODE)


def test_every_piece_of_the_block_is_reached(tokenizer, ranks):
    """A block learned from bytes alone holds pieces that the base's merges never lead to."""
    block = range(259 + len([token for token in ranks if len(token) > 1]), 2560 - SPARES)
    used = {id for chapter in CHAPTERS[1:9] for id in tokenizer.encode(chapter)}
    learned = [id for id in block if not (tokenizer._plain.id_to_token(id) or "").startswith("[UNUSED")]
    assert len(used & set(learned)) > 0.95 * len(learned)


def test_the_block_takes_what_ids_are_left(ranks):
    """60,004 + 32,397 + 147 and three controls are more than 92,544: the block is the one that gives way."""
    made, block = Tokenizer.build(
        ranks, CHAPTERS[:4], vocab_size=1792, spares=SPARES, base_tokens=len(ranks), chinese_tokens=32_397
    )
    assert block == 1792 - 3 - SPARES - len(ranks)
    assert made.vocab_size == 1792


def test_what_does_not_fit_is_said(ranks):
    with pytest.raises(ConfigError, match="1,500 tokens, not 60,004: lower .*base_tokens"):
        Tokenizer.build(ranks, [], vocab_size=92_544, spares=147, base_tokens=60_004, chinese_tokens=0)
    with pytest.raises(ConfigError, match="hold 3 control tokens, 1,500 pieces"):
        Tokenizer.build(ranks, [], vocab_size=1536, spares=147, base_tokens=1500, chinese_tokens=0)


def test_a_rank_file_is_read_as_written_and_a_broken_one_named_by_its_line(ranks, tmp_path):
    file = write_ranks(tmp_path / "some.tiktoken", ranks)
    assert read_ranks(file) == ranks
    good = file.read_bytes().splitlines()
    for line, message in (
        (b"!! 7", r"line 8: expected a token in base64"),
        (b"YWI= seven", r"line 8: expected a token in base64"),
        (b"YWI= 6", r"line 8: rank 6 again"),
        (b" 7", r"line 8: an empty token"),
        (b"YWI= 99999", r"ranks must be 0, 1, 2 .* without a gap"),
    ):
        file.write_bytes(b"\n".join([*good[:7], line, *good[8:]]))
        with pytest.raises(InputError, match=message):
            read_ranks(file)


def test_every_way_to_make_a_piece_is_a_merge_the_pieces_in_order():
    assert list(all_merges(["a", "b", "ab", "ba", "aba"])) == [("a", "b"), ("b", "a"), ("a", "ba"), ("ab", "a")]
