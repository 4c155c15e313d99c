"""The forms that people keep conversations in, each read into ours: OpenAI's and ChatML's messages, Alpaca, ShareGPT.

A reader takes one record as it stands in a file and gives messages (and the tools that are declared to them) as
`tokenmill.model.conversation` has them; whether they are a conversation is decided there.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

from tokenmill.records import Record

Format = Literal["messages", "alpaca", "sharegpt"]
Row = Mapping[str, Any]

_SHAREGPT = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "assistant": "assistant", "system": "system", "function_call": "assistant", "observation": "tool",
    "function_response": "tool", "tool": "tool",
}  # fmt: skip
"""Who speaks, in ShareGPT's dumps and in LLaMA-Factory's → role."""
_RENAMED = {"developer": "system", "function": "tool"}
"""OpenAI's newer word for the system, and its older one for a tool."""


class UnreadableError(Exception):
    """A record is not of its format: why, with the kind of fault before the first `(` or `:`."""


def read(row: Any, stated: Format | None = None) -> Record:
    """`messages`, and `tools` where some are declared, of one record of any format.

    Raises:
        UnreadableError: it is of no known format, or not of the one that is stated.
    """
    if not isinstance(row, Mapping):
        raise UnreadableError("no record (an object with fields is wanted)")
    messages, tools = READERS[stated or detected(row)](row)
    return {"messages": messages} | ({"tools": tools} if tools else {})


def detected(row: Row) -> Format:
    """The format, by its fields.

    Raises:
        UnreadableError: it has the fields of none.
    """
    if isinstance(row.get("messages"), list):
        return "messages"
    if isinstance(turns := row.get("conversations"), list):
        return "sharegpt" if all(isinstance(turn, Mapping) and "from" in turn for turn in turns) else "messages"
    if "instruction" in row:
        return "alpaca"
    raise UnreadableError(
        f"unknown format (it has the fields {', '.join(sorted(map(str, row)))[:80] or 'none'}; wanted are messages, "
        "conversations or instruction)"
    )


def read_messages(row: Row) -> tuple[list[Any], Any]:
    """OpenAI's chat format, and ChatML's: `messages`, each with role and content; `tools`."""
    turns = row.get("messages", row.get("conversations"))
    if not isinstance(turns, list):
        raise UnreadableError("no messages (a list in the field `messages` is wanted)")
    return [_message(turn) for turn in turns], _tools(row)


def read_alpaca(row: Row) -> tuple[list[Any], Any]:
    """`instruction`, `input` (may be empty), `output`; `system`, and the earlier turns as pairs in `history`."""
    asked, given = row.get("instruction"), row.get("input") or ""
    messages: list[Any] = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for pair in row.get("history") or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise UnreadableError("history that is no list of pairs")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    if not isinstance(asked, str) or not isinstance(given, str):
        raise UnreadableError("instruction or input that is no text")
    question = f"{asked}\n{given}" if given else asked
    return [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": row.get("output")}], None


def read_sharegpt(row: Row) -> tuple[list[Any], Any]:
    """`conversations`, each turn with `from` and `value`; `system` and `tools` beside them."""
    turns = row.get("conversations")
    if not isinstance(turns, list):
        raise UnreadableError("no conversations (a list in the field `conversations` is wanted)")
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return [*system, *map(_shared, turns)], _tools(row)


READERS: dict[Format, Callable[[Row], tuple[list[Any], Any]]] = {
    "messages": read_messages,
    "alpaca": read_alpaca,
    "sharegpt": read_sharegpt,
}


def _message(turn: Any) -> Any:
    """One of OpenAI's messages, without what says nothing: text parts are joined, arguments are objects."""
    if not isinstance(turn, Mapping):
        return turn
    role = turn.get("role")
    message = {
        "role": _RENAMED.get(role, role) if isinstance(role, str) else role,
        "content": _text(turn.get("content")),
    }
    if turn.get("name") and message["role"] != "tool":  # a tool's answer always comes under the plugin's name
        message["name"] = turn["name"]
    if calls := turn.get("tool_calls") or [{"function": call} for call in (turn.get("function_call"),) if call]:
        message["tool_calls"] = [_call(call) for call in calls] if isinstance(calls, list) else calls
        message["content"] = message["content"] or ""
    if _unlearned(turn):
        message["output_with_loss"] = False
    return message


def _unlearned(turn: Mapping[str, Any]) -> bool:
    """Whether a turn is marked as one to read only, in XTuner's, Axolotl's or OpenAI's words; 0 is false."""
    return any(turn.get(mark) == 0 for mark in ("output_with_loss", "loss", "weight"))


def _text(content: Any) -> Any:
    """OpenAI's list of text parts as one text; anything else as it is, for the check to name."""
    if isinstance(content, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in content):
        return "".join(str(part.get("text", "")) for part in content)
    return content


def _call(call: Any) -> Any:
    """A tool call with its arguments as an object, where they are one: so that a tool's name is its only text."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return call
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError):  # the check says what is wrong with it
            arguments = json.loads(arguments) if arguments.strip() else {}
    return {"type": "function", "function": {"name": function.get("name"), "arguments": arguments}}


def _shared(turn: Any) -> Any:
    if not isinstance(turn, Mapping):
        return turn
    speaker, value = turn.get("from"), turn.get("value")
    message: dict[str, Any] = {
        "role": _SHAREGPT.get(speaker, speaker) if isinstance(speaker, str) else speaker,
        "content": value,
    }
    if speaker == "function_call":
        message |= {"content": "", "tool_calls": _called(value)}
    if _unlearned(turn):
        message["output_with_loss"] = False
    return message


def _called(value: Any) -> list[Any]:
    """LLaMA-Factory's `function_call`: the JSON of one call or of several, `{"name", "arguments"}`."""
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except ValueError as broken:
        raise UnreadableError(f"tool call that is not JSON ({broken})") from None
    return [_call({"function": call}) for call in (calls if isinstance(calls, list) else [calls])]


def _tools(row: Row) -> Any:
    """The declared tools: a list, or its JSON, as tables hold it."""
    tools = row.get("tools") or row.get("functions")
    if isinstance(tools, str):
        try:
            return json.loads(tools)
        except ValueError as broken:
            raise UnreadableError(f"tools that are not JSON ({broken})") from None
    return tools
