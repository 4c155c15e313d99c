"""Conversations as ChatML tokens with a loss mask (report §4.1; tool turns §4.4).

What a message may be, and what is no conversation: `tokenmill.model.conversation`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tokenmill.errors import InputError
from tokenmill.model import IGNORE
from tokenmill.model.conversation import ACTIONS, ROLES, TOOL_NAMES, Message
from tokenmill.model.tokenizer import Tokenizer


class Encoded(NamedTuple):
    """Ids and, in the same places, labels: the id where the model is trained to say it, else IGNORE."""

    ids: list[int]
    labels: list[int]


def encode(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    max_length: int | None = None,
) -> Encoded:
    """`<s>`, then every turn. Loss on the assistant's words and their `<|im_end|>` only; cut on the right."""
    ids, labels = [tokenizer.bos_id], [IGNORE]
    for message in _declared(messages, tools):
        head, said, tail = _turn(message, tokenizer)
        trained = message["role"] == "assistant" and message.get("output_with_loss", True)
        ids += head + said + tail
        labels += [IGNORE] * len(head) + (said if trained else [IGNORE] * len(said)) + [IGNORE] * len(tail)
    return Encoded(ids[:max_length], labels[:max_length])


def encode_prompt(
    messages: Sequence[Message], tokenizer: Tokenizer, *, tools: Sequence[Mapping[str, Any]] | None = None
) -> list[int]:
    """The conversation and the head of the assistant's turn: a prefix of what `encode` gives once it has answered."""
    head = [tokenizer.im_start_id, *tokenizer.encode("assistant\n")]
    return encode(messages, tokenizer, tools=tools).ids + head


def answer_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """A written answer as the assistant says it: its text and `<|im_end|>`."""
    return [*tokenizer.encode(text.lstrip()), tokenizer.im_end_id]


def encode_judged(
    asked: Sequence[Message], answer: Sequence[int], tokenizer: Tokenizer, *, max_length: int | None = None
) -> list[int]:
    """What a reward model reads: the dialogue, the tokens of an answer to it, and the reward token, where its score is read.

    One that is too long loses the end of its answer, not the reward token.
    """
    ids = encode_prompt(asked, tokenizer) + list(answer)
    return [*ids[: None if max_length is None else max_length - 1], tokenizer.reward_id]


def _turn(message: Message, tokenizer: Tokenizer) -> tuple[list[int], list[int], list[int]]:
    """A message as its head, what is said (with `<|im_end|>`), and the line break after it.

    Between two special tokens, text is encoded in one piece, as transformers and vLLM do with the chat template's
    output. An assistant's head is a piece of its own, because generation starts there; so its words cannot start with
    whitespace.
    """
    role, name = message["role"], message.get("name")
    if role == "tool":
        role, name = "environment", "<|plugin|>"
    if role not in ROLES:
        raise InputError(f"unknown role '{role}': use {', '.join(ROLES)} or tool")
    head = [tokenizer.im_start_id]
    before = role if not name else f"{role} name="
    if name in TOOL_NAMES:
        head += [*tokenizer.encode(before), tokenizer.special[name]]
        before = ""
    elif name:
        before += name
    end, tail = [tokenizer.im_end_id], tokenizer.encode("\n")
    if role != "assistant":
        return head, tokenizer.encode(f"{before}\n{message['content']}") + end, tail
    said: list[int] = []
    for part in ACTIONS.split(_spoken(message)):
        said += [tokenizer.special[part]] if ACTIONS.fullmatch(part) else tokenizer.encode(part)
    return head + tokenizer.encode(f"{before}\n"), said + end, tail


def _spoken(message: Message) -> str:
    """An assistant's text, with OpenAI's tool calls written out as actions."""
    text = message.get("content") or ""
    for call in message.get("tool_calls") or ():
        arguments = call["function"]["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        action = json.dumps({"name": call["function"]["name"], "parameters": arguments}, ensure_ascii=False)
        text += f"<|action_start|><|plugin|>\n{action}<|action_end|>"
    return text.lstrip()


def _declared(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None) -> list[Message]:
    """The messages, with the tools' schemas as a system turn after the first one."""
    if not tools:
        return list(messages)
    schemas = json.dumps([tool.get("function", tool) for tool in tools], ensure_ascii=False)
    first = 1 if messages[0]["role"] == "system" else 0
    return [*messages[:first], {"role": "system", "name": "<|plugin|>", "content": schemas}, *messages[first:]]
