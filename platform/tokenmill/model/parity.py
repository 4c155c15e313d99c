"""Template parity: what a server makes of a chat, by the Jinja template, must be what models are trained on, id for id."""

import json
from pathlib import Path

import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tokenmill.model.chat import encode_prompt
from tokenmill.model.tokenizer import FILE, SETTINGS, TEMPLATE, Tokenizer

Chat = list[dict[str, str]]


def turn(role: str, content: str, **more: str) -> dict[str, str]:
    return {"role": role, "content": content} | more


GOLDEN_CHATS: tuple[Chat, ...] = (
    [turn("user", "Hello")],
    [turn("system", "You are brief."), turn("user", "What is 7 + 5?")],
    [turn("user", "你好！请介绍一下你自己。")],
    [turn("user", "Hi"), turn("assistant", "Hi there"), turn("user", " two  spaces\n\nand lines\t")],
    [turn("user", "def f(x):\n    return x + 1  # naïve 😀")],
    [
        turn("system", "[]", name="<|plugin|>"),
        turn("user", "Use a tool."),
        turn("environment", "{}", name="<|plugin|>"),
    ],
)
"""Chats on which the template must give exactly our ids: system, several turns, Chinese, whitespace, code, tools."""


def rendered(folder: Path, chat: Chat) -> list[int]:
    """Ids of a chat up to the answer's opening, as transformers and vLLM get them: the template's text, then the tokenizer."""
    settings = json.loads((folder / SETTINGS).read_text("utf-8"))
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / TEMPLATE).read_text("utf-8"))
    names = {name: settings[name] for name in ("bos_token", "eos_token")}
    text = template.render(messages=chat, add_generation_prompt=True, **names)
    ids: list[int] = tokenizers.Tokenizer.from_file(str(folder / FILE)).encode(text, add_special_tokens=False).ids
    return ids


def differing(folder: Path) -> list[int]:
    """Indices of the golden chats on which the template of a tokenizer's folder gives other ids than `encode_prompt`."""
    ours = Tokenizer.load(folder)
    return [i for i, chat in enumerate(GOLDEN_CHATS) if rendered(folder, chat) != encode_prompt(chat, ours)]
