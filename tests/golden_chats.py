"""Chats on which training, evaluation and every server must have the same ids: turns, tools, interpreter, white space."""

import json

HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi there"}]
CALL = 'Let me see.<|action_start|><|plugin|>\n{"name": "add", "parameters": {"a": 2, "b": 3}}<|action_end|>'
TOOLS = [{"type": "function", "function": {"name": "add", "description": "加法", "parameters": {"type": "object"}}}]
TOOL_USE = [
    {"role": "system", "content": "You are an assistant."},
    {"role": "system", "name": "<|plugin|>", "content": '[{"name": "add"}]'},
    {"role": "user", "name": "file", "content": '[{"path": "a.xlsx", "size": "10K"}]'},
    {"role": "user", "content": "2+3?"},
    {"role": "assistant", "content": CALL},
    {"role": "environment", "name": "<|plugin|>", "content": '{"result": 5}'},
    {"role": "assistant", "content": "5。"},
]
OPENAI = [
    {"role": "user", "content": "2+3?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": "三"}}}],
    },
    {"role": "tool", "content": '{"result": 5}'},
    {"role": "assistant", "content": "5"},
    {"role": "user", "content": "thanks"},
]
INTERPRETER = [
    {"role": "system", "name": "<|interpreter|>", "content": "Python 3."},
    {"role": "user", "content": "\n\n  print it\n"},
    {"role": "assistant", "content": "<|action_start|><|interpreter|>\n```python\nprint(1)\n```\n<|action_end|>"},
    {"role": "environment", "name": "<|interpreter|>", "content": " \n1\n"},
]
GOLDEN = {
    "hello": (HELLO, None),
    "tool use": (TOOL_USE, None),
    "OpenAI tool calls": (OPENAI, TOOLS),
    "tools after the system turn": (TOOL_USE, TOOLS),
    "interpreter": (INTERPRETER, None),
    "whitespace": (
        [
            {"role": "user", "content": " "},
            {"role": "assistant", "content": "\n \n  a  \n"},
            {"role": "user", "content": "\r\nb"},
        ],
        None,
    ),
}


def over_the_wire(messages: list[dict]) -> list[dict]:
    """As a client sends them by OpenAI's API: calls have ids and their arguments are JSON in a string."""
    sent = []
    for message in messages:
        calls = [
            {"id": f"call-{number}", "type": "function", "function": call["function"] | {
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False)
            }}
            for number, call in enumerate(message.get("tool_calls", ()))
        ]  # fmt: skip
        sent.append(message | ({"tool_calls": calls} if calls else {}))
    return sent
