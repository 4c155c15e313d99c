"""Spec §2.4 and §6.3 to the id: a tokenizer that has the released one's ids for these few words, and their vectors by hand.

The released tokenizer itself cannot be shipped. What is held to here is ours: which pieces are encoded together, where
special tokens stand, and what is learned.
"""

import math

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers

from tokenmill.model import IGNORE
from tokenmill.model.chat import encode, encode_prompt
from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.model.vocabulary import special
from tokenmill.training.data import Sample, mean_loss

WORDS = {
    "\n": 364, "user": 1008, "Hello": 9843, "ass": 525, "istant": 11353, "Hi": 13195, " there": 1194,
    "system": 9081, " name": 963, "=": 310, "[]": 1440,
}  # fmt: skip
SPECIAL = {
    "<unk>": 0, "<s>": 1, "</s>": 2, "<|reward|>": 92527, "<|plugin|>": 92538, "<|interpreter|>": 92539,
    "<|action_end|>": 92540, "<|action_start|>": 92541, "<|im_end|>": 92542, "<|im_start|>": 92543,
}  # fmt: skip
START, END, PLUGIN, ACTION, ACTED = 92543, 92542, 92538, 92541, 92540
USER, ASSISTANT = [START, 1008, 364], [START, 525, 11353, 364]
HEADER = [1, *USER, 9843, END, 364, *ASSISTANT]
X = IGNORE


@pytest.fixture(scope="module")
def released() -> Tokenizer:
    names = {id: name for name, id in (WORDS | SPECIAL).items()}
    vocabulary = {names.get(id, f"never-{id}"): id for id in range(92_544)}
    raw = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words = "|".join(word.replace("[]", r"\[\]") for word in WORDS)
    raw.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(words), behavior="isolated")
    raw.add_special_tokens([special(name) for name in SPECIAL])
    return Tokenizer(raw.to_str())


def turn(role: str, content: str, **more) -> dict:
    return {"role": role, "content": content} | more


HELLO = [turn("user", "Hello"), turn("assistant", "Hi there")]


def test_the_prompt_of_the_specification(released):
    assert encode_prompt(HELLO[:1], released) == [1, 92543, 1008, 364, 9843, 92542, 364, 92543, 525, 11353, 364]


def test_the_label_vector_of_the_specification(released):
    ids, labels = encode(HELLO, released)
    assert ids == [*HEADER, 13195, 1194, 92542, 364]
    assert labels == [X] * 11 + [13195, 1194, 92542] + [X]


def test_the_declaration_of_tools_of_the_specification(released):
    declared = [turn("system", "[]", name="<|plugin|>")]
    ids, labels = encode(declared, released)
    assert ids == [1, 92543, 9081, 963, 310, 92538, 364, 1440, 92542, 364]
    assert labels == [X] * 10


def test_every_answer_of_a_longer_conversation_is_learned_and_no_environment(released):
    acting = "Hi<|action_start|><|plugin|>\n[]<|action_end|>"
    turns = [turn("user", "Hello"), turn("assistant", acting), turn("environment", "[]", name="<|plugin|>")]
    ids, labels = encode([*turns, turn("assistant", "Hi there")], released)
    environment = released.encode("environment name=")
    assert ids == [
        *HEADER, 13195, ACTION, PLUGIN, 364, 1440, ACTED, END, 364,
        START, *environment, PLUGIN, 364, 1440, END, 364,
        *ASSISTANT, 13195, 1194, END, 364,
    ]  # fmt: skip
    assert labels == [
        *[X] * 11, 13195, ACTION, PLUGIN, 364, 1440, ACTED, END, X,
        *[X] * (1 + len(environment) + 5),
        *[X] * 4, 13195, 1194, END, X,
    ]  # fmt: skip


def test_a_turn_without_loss_is_read_and_not_learned(released):
    turns = [HELLO[0], HELLO[1] | {"output_with_loss": False}, *HELLO]
    ids, labels = encode(turns, released)
    assert ids == [*HEADER, 13195, 1194, END, 364, *HEADER[1:], 13195, 1194, END, 364]
    assert labels == [X] * 15 + [X] * 10 + [13195, 1194, END, X]


def test_it_is_cut_on_the_right(released):
    ids, labels = encode(HELLO, released, max_length=13)
    assert (ids, labels) == ([*HEADER, 13195, 1194], [X] * 11 + [13195, 1194])


def test_a_token_average_is_over_the_learned_tokens_of_all_samples(tokenizer):
    """By hand: a model whose output layer is zero gives every id the same probability, one whose rows are not, softmax's."""
    shape = InternLM2Config.preset("pico")
    model = InternLM2ForCausalLM(shape, seed=0)
    with torch.no_grad():
        model.output.weight.zero_()
    short, long = (
        Sample(*encode(turns, tokenizer)) for turns in (HELLO, [turn("user", "Hello"), turn("assistant", "Hi " * 9)])
    )
    clipped = [Sample([id % shape.vocab_size for id in s.ids], [X if n == X else n % shape.vocab_size for n in s.labels])
               for s in (short, long)]  # fmt: skip
    assert mean_loss(model, clipped) == pytest.approx(math.log(shape.vocab_size), rel=1e-5)

    model = InternLM2ForCausalLM(shape, seed=0)
    losses: list[list[float]] = []
    for sample in clipped:
        ends = torch.tensor([0, len(sample)], dtype=torch.int32)
        chances = model(torch.tensor(sample.ids), ends, torch.arange(len(sample))).detach().log_softmax(-1)
        learned = [(place - 1, label) for place, label in enumerate(sample.labels) if label != X]
        losses.append([-float(chances[place, label]) for place, label in learned])
    assert len(losses[0]) != len(losses[1])
    by_token = sum(map(sum, losses)) / sum(map(len, losses))
    by_sample = sum(sum(one) / len(one) for one in losses) / 2
    assert mean_loss(model, clipped) == pytest.approx(by_token, rel=1e-5)
    assert abs(by_token - by_sample) > 1e-3  # a mean of means is another number
