"""The tokenizer: every text survives, no text becomes a special token, ids lie where InternLM2 has them."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from foreign import SPECIAL, foreign_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.errors import ConfigError, InputError
from tokenmill.model.chat import encode
from tokenmill.model.tokenizer import CHAT, CONTROL, REWARD, Tokenizer

NAMES = [*CONTROL, *CHAT, REWARD, "[UNUSED_TOKEN_0]", "[UNUSED_TOKEN_3]"]
HOSTILE = st.lists(st.one_of(st.sampled_from(NAMES), st.text(max_size=8)), max_size=8).map("".join)


@settings(max_examples=400)
@given(text=st.one_of(st.text(), HOSTILE))
def test_any_text_comes_back_and_gives_no_special_token(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(3 <= id < tokenizer.vocab_size - 16 for id in ids)


def test_batch_equals_single_and_survives_pickling(tokenizer):
    texts = ["<|im_end|> quick fox", "语言模型 1234567", "", "<s>\n\n  </s>"]
    expected = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts) == expected
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert [copy.encode(text) for text in texts] == expected


def test_ids_of_the_released_layout(texts):
    """147 spares: reward token at spare 130, id 92527 of 92544, that is 17 from the top (spec §2.3)."""
    big = Tokenizer.train(texts, vocab_size=896, spares=147)
    top = 92_544
    released = dict(zip(CHAT, (92543, 92542, 92541, 92540, 92539, 92538), strict=True)) | {REWARD: 92527}
    assert {name: id - big.vocab_size for name, id in big.special.items() if id > 2} == {
        name: id - top for name, id in released.items()
    }
    assert [big.special[name] for name in CONTROL] == [0, 1, 2]


def test_ids_of_a_small_layout(tokenizer):
    assert tokenizer.vocab_size == len(tokenizer) == 640
    assert [tokenizer.special[name] for name in (*CHAT, REWARD)] == [639, 638, 637, 636, 635, 634, 633]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    assert tokenizer.stop_ids == (2, 638)
    assert tokenizer.encode("\x00") == [3]  # bytes follow the control tokens, by value
    assert tokenizer.decode([3 + byte for byte in "é".encode()]) == "é"
    assert tokenizer.decode([624]) == "[UNUSED_TOKEN_0]"


def test_every_id_has_a_name_and_a_corpus_too_small_is_filled_up():
    tiny = Tokenizer.train(["ab" * 50], vocab_size=512)
    assert len({tiny.decode([id]) for id in range(259, 512)}) == 253
    assert tiny.special["<|im_start|>"] == 511
    assert tiny.decode(tiny.encode("abab [UNUSED_TOKEN_9]")) == "abab [UNUSED_TOKEN_9]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1234567", ["123", "456", "7"]),
        ("don't", ["don", "'t"]),
        ("  x\n\n y", [" ", " x", "\n\n", " y"]),
        ("a,b; ...\n", ["a", ",b", ";", " ...\n"]),
    ],
)
def test_words_are_cl100ks(tokenizer, text, words):
    """No piece crosses a border of cl100k's pattern: text falls into words before it is merged."""
    assert tokenizer.encode(text) == [id for word in words for id in tokenizer.encode(word)]


def test_learned_pieces_compress_the_corpus(tokenizer, texts):
    length = sum(len(text.encode()) for text in texts)
    assert sum(map(len, tokenizer.encode_batch(texts))) < length / 2
    untrained = Tokenizer.train([], vocab_size=384)
    assert len(untrained.encode(texts[0])) == len(texts[0].encode())


def test_training_is_deterministic_across_processes_and_threads(tokenizer, texts, tmp_path):
    script = f"from tokenmill.model.tokenizer import Tokenizer; Tokenizer.train({texts!r}, 640).save('{tmp_path}')"
    environment = os.environ | {"RAYON_NUM_THREADS": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    assert Tokenizer.load(tmp_path)._serialized == tokenizer._serialized


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens.json",
        "chat_template.jinja",
    }
    loaded = Tokenizer.load(tmp_path)
    assert loaded.special == tokenizer.special == json.loads((tmp_path / "special_tokens.json").read_text())
    assert loaded.encode("<s> fox 语言") == tokenizer.encode("<s> fox 语言")


def test_transformers_reads_the_same_ids(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = "It's 2024: 1234567 fox\n\n语言模型 🦊"
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert theirs.encode(text) == [1, *tokenizer.encode(text)]  # a completion's prompt begins as a document does
    assert theirs.decode(tokenizer.encode(text)) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, len(theirs)) == (1, 2, 2, 640)
    assert {name: theirs.convert_tokens_to_ids(name) for name in tokenizer.special} == tokenizer.special


def test_impossible_sizes_and_missing_files_are_explained(tmp_path):
    for size, spares in ((500, 16), (256, 16), (512, 5)):
        with pytest.raises(ConfigError, match="multiple of 128"):
            Tokenizer.train([], vocab_size=size, spares=spares)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_module_does_not_import_torch():
    """Curation workers tokenise too: they must not pay for torch."""
    code = "import sys, tokenmill.model.tokenizer, tokenmill.model.chat; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "platform")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


# ---- tokenizers of other making --------------------------------------------------------------------------------------

MISSING = ["<|action_start|>", "<|action_end|>", "<|interpreter|>", "<|plugin|>", "<|reward|>"]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return foreign_tokenizer(tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="module")
def adopted(foreign):
    return Tokenizer.adopt(foreign, rows=350)[0]


def test_a_foreign_tokenizer_keeps_its_ids_and_gets_ours_on_top(foreign, adopted):
    """340 ids and a model of 350 rows: 5 tokens are missing, so 384 ids, the missing ones at the top in our order."""
    raw = tokenizers.Tokenizer.from_file(str(foreign / "tokenizer.json"))
    raw.no_truncation()
    assert Tokenizer.adopt(foreign, rows=350)[1] == raw.get_vocab_size() == 340
    assert adopted.vocab_size == 384
    assert [adopted.special[name] for name in MISSING] == [383, 382, 381, 380, 379]
    assert {name: adopted.special[name] for name in SPECIAL} == {name: id for id, name in enumerate(SPECIAL)}
    assert [adopted.decode([id]) for id in (340, 378)] == ["[UNUSED_TOKEN_0]", "[UNUSED_TOKEN_38]"]
    long = "The old king rode over the hills. " * 20
    assert adopted.encode(long) == raw.encode(long).ids  # and is not cut at 16 tokens, as the file says


def test_a_turns_borders_do_not_begin_and_end_documents(foreign, adopted, tmp_path):
    """tokenizer_config.json names <|im_start|> and <|im_end|>, as SmolLM2-Instruct's does; a document has others."""
    assert (adopted.bos_id, adopted.eos_id, adopted.pad_id) == (0, 0, 0)
    assert adopted.stop_ids == (0, 2)
    shutil.copytree(foreign, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<repo_name>", "eos_token": "nowhere"}')
    named, _ = Tokenizer.adopt(tmp_path)
    assert (named.bos_id, named.eos_id) == (3, 0)
    (tmp_path / "tokenizer.json").write_text(
        (tmp_path / "tokenizer.json").read_text().replace("<|endoftext|>", "<|other|>")
    )
    (tmp_path / "tokenizer_config.json").unlink()
    bare, _ = Tokenizer.adopt(tmp_path)
    top = bare.vocab_size - 1
    assert [bare.special[name] for name in (*MISSING, "</s>", "<s>")] == [top - i for i in range(7)]
    assert (bare.bos_id, bare.eos_id) == (top - 6, top - 5)


@settings(max_examples=200)
@given(text=st.lists(st.one_of(st.sampled_from([*NAMES, *SPECIAL]), st.text(max_size=8)), max_size=8).map("".join))
def test_an_adopted_tokenizer_is_as_safe_as_ours(adopted, text):
    ids = adopted.encode(text)
    assert adopted.decode(ids) == text
    assert all(4 <= id < 340 for id in ids)


def test_an_adopted_tokenizer_is_saved_loaded_and_pickled(adopted, tmp_path):
    adopted.save(tmp_path)
    for copy in (Tokenizer.load(tmp_path), pickle.loads(pickle.dumps(adopted))):
        assert copy.special == adopted.special
        assert (copy.bos_id, copy.eos_id, copy.encode("<|im_end|> x")) == (0, 0, adopted.encode("<|im_end|> x"))
    again, known = Tokenizer.adopt(tmp_path, rows=384)
    assert (again._serialized, known) == (adopted._serialized, 384)  # what is complete comes back as it is


def test_our_own_tokenizer_is_adopted_as_it_is(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again, known = Tokenizer.adopt(tmp_path, rows=640)
    assert (again._serialized, known) == (tokenizer._serialized, 640)
    bigger, known = Tokenizer.adopt(tmp_path, rows=641)  # a model padded beyond it
    assert (bigger.vocab_size, known, bigger.special) == (768, 640, tokenizer.special)


def test_the_template_of_an_adopted_tokenizer_lets_no_text_become_a_special_token(adopted, tmp_path):
    from transformers import AutoTokenizer

    adopted.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    harmless = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    hostile = [
        {"role": role, "content": "".join([*SPECIAL, "<|reward|>", "[UNUSED_TOKEN_3]"])}
        for role in ("user", "assistant")
    ]

    def read(messages):
        return theirs.apply_chat_template(messages, tokenize=True, return_dict=False)

    assert read(harmless) == encode(harmless, adopted).ids
    special = [[id for id in ids if id < 4 or id >= 340] for ids in (read(harmless), read(hostile))]
    assert special[0] == special[1] == [id for id in encode(hostile, adopted).ids if id < 4 or id >= 340]
    assert theirs.encode("x")[0] == adopted.bos_id


def test_what_cannot_be_adopted_is_said(foreign, tmp_path):
    with pytest.raises(InputError, match=r"lacks <s>, </s>, <\|action_start\|>.*tokenmill model import"):
        (tmp_path / "tokenizer.json").write_text((foreign / "tokenizer.json").read_text())
        Tokenizer.load(tmp_path)
    with pytest.raises(InputError, match="has 340 ids, the model 339 rows"):
        Tokenizer.adopt(foreign, rows=339)
    values = json.loads((foreign / "tokenizer.json").read_text())
    merged = str(values["model"]["merges"])
    del values["model"]["vocab"][next(p for p in values["model"]["vocab"] if len(p) == 1 and p not in merged)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="leaves ids unused"):
        Tokenizer.adopt(tmp_path)
    words = tokenizers.models.WordLevel({"[UNK]": 0, "the": 1}, unk_token="[UNK]")
    tokenizers.Tokenizer(words).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="does not give .* back"):
        Tokenizer.adopt(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.adopt(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"expected tokenizer\.json or tokenizer\.model"):
        Tokenizer.adopt(tmp_path)
