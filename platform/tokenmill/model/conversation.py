"""What a conversation is, and why something is none: its form, checked before anything learns from it.

A message is {"role": system | user | assistant | environment | tool, "content": text}; where it applies with "name"
(`<|plugin|>`, `<|interpreter|>`, or any text, as in `user name=file`), "output_with_loss": false, and OpenAI's
"tool_calls". `tool` is OpenAI's word for the environment that a plugin answers from.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]

ROLES = ("system", "user", "assistant", "environment")
TOOL_NAMES = ("<|plugin|>", "<|interpreter|>")
ACTIONS = re.compile(r"(<\|action_start\|>|<\|action_end\|>|<\|plugin\|>|<\|interpreter\|>)")
"""What an assistant may say with special tokens; in every other role's text these names are text."""
_ACTION = re.compile(r"<\|action_start\|><\|(plugin|interpreter)\|>(.*?)<\|action_end\|>", re.DOTALL)


def asked_first(messages: Sequence[Message]) -> str:
    """What a user asks first, after files that were handed over; without a user, the first message."""
    asked = [m["content"] for m in messages if m["role"] == "user"]
    questions = [m["content"] for m in messages if m["role"] == "user" and not m.get("name")]
    return str((questions or asked or [messages[0]["content"]])[0])


def flaw(messages: Any, tools: Any = None) -> str:
    """Why these messages are no conversation to learn from, with the message's number; empty where they are one.

    What stands before the first `(` or `:` is the kind of flaw, to count by.
    """
    if not isinstance(messages, list) or not messages:
        return "no messages"
    return next(_flaws(messages, tools), "")


def _flaws(messages: Sequence[Any], tools: Any) -> Iterator[str]:
    yield from _tool_flaws(tools)
    asked = False
    for number, message in enumerate(messages, 1):
        yield from (f"{what} (message {number}{told})" for what, told in _message_flaws(message))
        role = message["role"]
        if role == "assistant" and not asked:
            yield f"begins with the assistant (message {number})"
        asked = asked or role == "user"
    if all(message["role"] != "assistant" for message in messages):
        yield "no turn of the assistant"


def _message_flaws(message: Any) -> Iterator[tuple[str, str]]:
    """(kind, particulars) of what is wrong with one message."""
    if not isinstance(message, Mapping):
        yield "a message that is no object", ""
        return
    role, content = message.get("role"), message.get("content")
    if role not in (*ROLES, "tool"):
        yield "unknown role", f": {role!r:.40}, known are {', '.join(ROLES)} and tool"
        return
    if not isinstance(content, str):
        yield "content that is no text", f", {role}: {type(content).__name__}"
        return
    if not isinstance(message.get("name", ""), str) or "\n" in message.get("name", ""):
        yield "a name that is no line of text", f", {role}"
    calls = message.get("tool_calls") or ()
    if not content.strip() and not calls and role in ("system", "user", "assistant"):  # a tool may have nothing to say
        yield "empty turn", f", {role}"
    if calls and role != "assistant":
        yield "tool calls of somebody else", f", {role}"
    if role == "assistant":
        yield from _call_flaws(calls)
        yield from _action_flaws(content)
    if role == "system" and message.get("name") == TOOL_NAMES[0] and not _is_list(content):
        yield "tool declarations that are no JSON list", ""


def _call_flaws(calls: Any) -> Iterator[tuple[str, str]]:
    """Of OpenAI's tool calls: `{"function": {"name", "arguments": an object, or its JSON}}`."""
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        yield "tool calls that are no list", ""
        return
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            yield "tool call without a function's name", ""
            continue
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError as broken:
                yield "tool call that is not JSON", f": {function['name']}: {broken}"
                continue
        if not isinstance(arguments, Mapping):
            yield "tool call whose arguments are no object", f": {function['name']}"
        elif ACTIONS.search(json.dumps([function["name"], arguments])):  # they would be said as special tokens
            yield "tool call that holds the name of a special token", f": {function['name']}"


def _action_flaws(content: str) -> Iterator[tuple[str, str]]:
    """Of actions written out: whole, and a plugin's a JSON object with name and parameters (report §4.4)."""
    if ACTIONS.search(_ACTION.sub("", content)):
        yield "action that is not whole", ", <|action_start|><|plugin|> or <|interpreter|> up to <|action_end|>"
    for kind, body in _ACTION.findall(content):
        if ACTIONS.search(body):
            yield "action that is not whole", ", another begins inside it"
        elif kind == "plugin":
            try:
                call = json.loads(body)
            except ValueError as broken:
                yield "tool call that is not JSON", f": {broken}"
                continue
            if not isinstance(call, dict) or not isinstance(call.get("name"), str) or "parameters" not in call:
                yield "tool call without name and parameters", ""


def _tool_flaws(tools: Any) -> Iterator[str]:
    """Of declarations: OpenAI's `{"type": "function", "function": {"name", …}}`, or the inner part alone."""
    if tools is None:
        return
    if not isinstance(tools, list):
        yield "tools that are no list"
        return
    for number, tool in enumerate(tools, 1):
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str) or not inner["name"]:
            yield f"tool without a name (tool {number})"


def _is_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False
