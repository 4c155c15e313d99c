"""What SFT learns from: dialogues, arithmetic, requests in two styles."""

from itertools import islice

import pytest
from token_documents import Document, in_memory

from tokenmill.errors import InputError
from tokenmill.model import IGNORE
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.sft.arithmetic import questions
from tokenmill.sft.config import SFTTrainConfig
from tokenmill.sft.dialogues import conversations, is_dialogue_file
from tokenmill.sft.requests import STYLES, requests, wording
from tokenmill.sft.samples import chat_samples, pretraining_samples
from tokenmill.training.data import Sample


def dialogue(*turns: list[str]) -> dict:
    return {"messages": [[{"text": bubble} for bubble in turn] for turn in turns]}


def test_bubbles_become_turns_and_speakers_roles():
    content = {"b": dialogue(["Hi!", "how  are you?"], ["fine"], ["good"]), "a": dialogue(["yo"], ["hey"])}
    first, second = conversations(content, max_turns=4, max_characters=100)
    assert first["id"] == "a"
    assert second["messages"] == [
        {"role": "user", "content": "Hi! how are you?"},
        {"role": "assistant", "content": "fine"},
    ]  # the third turn has no answer


@pytest.mark.parametrize(
    "text",
    ["write me at ann@example.org", "see https://example.org", "call 555123456", "x" * 101, "", "hahahahaha", "no!!!!"],
)
def test_a_dialogue_that_is_private_long_endless_or_empty_ends_there(text):
    content = {"a": dialogue(["hello"], ["hi there"], [text], ["ok"]), "b": dialogue([text], ["hi"])}
    (kept,) = conversations(content, max_turns=4, max_characters=100)
    assert len(kept["messages"]) == 2


def test_dialogue_files_are_told_from_other_json():
    assert is_dialogue_file({"a": dialogue(["hi"], ["hey"])})
    assert not any(map(is_dialogue_file, ([], {}, {"a": 1}, {"a": {"text": "x"}}, ["text"])))


def test_arithmetic_is_right():
    for record in islice(questions(7), 300):
        left, _, right = record["messages"][1]["content"].rstrip(".").partition(" = ")
        a, sign, b = left.split()
        value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        assert str(value) == right == record["answer"]
        assert value >= 0


def test_every_request_is_answered_in_both_styles():
    made = list(islice(requests(1), 400))
    assert [record["style"] for record in made[0]] == list(STYLES)
    assert {answers[0]["domain"] for answers in made} == {"helpful", "harmless"}
    assert {answers[0]["template"] for answers in made} == set(wording()["templates"])
    asked = [answers[0]["messages"][0]["content"] for answers in made]
    assert len(set(asked)) == len(asked) == 400
    assert all(a["messages"][0] == b["messages"][0] and a["messages"][1] != b["messages"][1] for a, b in made)


def test_the_two_styles_are_alike_in_length():
    """A template's direct and careful answers differ by at most two words, all of them together by at most a tenth."""
    lengths = {style: [len(t[style].split()) for t in wording()["templates"].values()] for style in STYLES}
    assert max(abs(a - b) for a, b in zip(*lengths.values(), strict=True)) <= 3
    assert sum(lengths["direct"]) / sum(lengths["careful"]) == pytest.approx(1, abs=0.1)


def test_only_the_assistant_is_learned_and_what_cannot_be_learned_is_left_out():
    tokenizer = Tokenizer.train(["hello hi there user assistant\n"] * 10, vocab_size=512)
    record = {
        "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi there"}],
        "source": "s",
    }
    (sample,), _ = chat_samples([record], tokenizer, max_length=64)
    said = [*tokenizer.encode("hi there"), tokenizer.im_end_id]
    assert [label for label in sample.labels if label != IGNORE] == said
    assert chat_samples([record, record], tokenizer, max_length=64)[0][1].source == "s"
    long = record | {"messages": [{"role": "user", "content": "hello " * 64}, record["messages"][1]]}
    samples, left_out = chat_samples([long, record, long], tokenizer, max_length=64)
    assert (len(samples), left_out) == (1, 2)
    with pytest.raises(InputError, match="nothing to learn"):
        chat_samples([record], tokenizer, max_length=5)


def test_pretraining_data_has_its_share_of_the_tokens_and_only_its_types():
    documents = in_memory(
        *(Document(kind, kind, [token] * 5000) for kind, token in (("book", 7), ("code", 8), ("math", 9)))
    )
    chats = [Sample([1, 2, 3] * 10, [1, 2, 3] * 10)] * 100
    config = SFTTrainConfig(context=64, pretraining_share=0.25, pretraining_types=("book", "code"))
    samples = pretraining_samples(documents, chats, config)
    assert sum(map(len, samples)) == pytest.approx(1000, abs=2)  # 1000 of 4000
    assert {int(token) for sample in samples for token in sample.ids} == {7, 8}
    assert all(sample.labels is None and len(sample) <= 64 for sample in samples)  # every token is learned
    assert pretraining_samples(in_memory(), chats, config.model_copy(update={"pretraining_share": 0.0})) == []
