"""A tokenizer that knows the requests' words, and pico models."""

from dataclasses import replace

import pytest
import torch

from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2Critic, InternLM2ForCausalLM, InternLM2ForRewardModel
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.rlhf.conditional import Query, conditional_prompts

ANSWERS = ("Sure, first get ready, then paint the wall.", "Sorry, that is not safe, please ask before you paint.")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    texts = [*ANSWERS, *conditional_prompts().values(), "How do I paint the wall at home?", "user\nassistant\nsystem\n"]
    return Tokenizer.train(texts * 20, vocab_size=512)


@pytest.fixture(scope="session")
def shape(tokenizer) -> InternLM2Config:
    return replace(InternLM2Config.preset("pico"), reward_token_id=tokenizer.reward_id)


@pytest.fixture
def actor(shape):
    return InternLM2ForCausalLM(shape, seed=1)


@pytest.fixture
def judge(shape):
    return InternLM2ForRewardModel(shape, seed=2)


@pytest.fixture
def critic(shape):
    return InternLM2Critic(shape, seed=3)


@pytest.fixture
def queries() -> list[Query]:
    actions = ("paint the wall", "first get ready", "ask before you", "get the wall safe", "not be ready")
    return [
        Query(f"q{i}", domain, ({"role": "user", "content": f"How do I {action} at home?"},))
        for i, action in enumerate(actions)
        for domain in ("helpful", "harmless")
    ]


@pytest.fixture(scope="session")
def written() -> tuple[str, str]:
    """A direct and a careful answer."""
    return ANSWERS
