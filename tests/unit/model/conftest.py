"""A pico model and a tokenizer learned from a few sentences, made once."""

import argparse
from pathlib import Path

import pytest
import torch

from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.model.tokenizer import Tokenizer

ENGLISH = (
    "The quick brown fox jumps over the lazy dog while the user asks the assistant how many tokens there are. "
    "It's 2024: we've counted 1234567 of them, and they're all here.\n\n    def main():\n        return 42\n"
)
CHINESE = "书生·浦语是一个语言模型，它会回答用户的问题。模型的词表里有中文，也有英文。"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    code = Path(argparse.__file__).read_text("utf-8")[:20_000]
    return [code, *[ENGLISH, CHINESE, "user\nassistant\nsystem\nenvironment name=file\n"] * 20]


@pytest.fixture(scope="session")
def tokenizer(texts) -> Tokenizer:
    return Tokenizer.train(texts, vocab_size=640)


@pytest.fixture(scope="session")
def grouped() -> InternLM2Config:
    """Two query heads for each KV head, which pico does not have."""
    return InternLM2Config(
        vocab_size=256,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=96,
        max_position_embeddings=64,
    )


@pytest.fixture(scope="session")
def model(grouped) -> InternLM2ForCausalLM:
    """Weights ten times the usual size, so that predictions are far from uniform and an error would show."""
    model = InternLM2ForCausalLM(grouped, seed=7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter *= 10
    return model
