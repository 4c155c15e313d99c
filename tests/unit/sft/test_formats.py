"""Each format into messages, told by its fields; the same conversation in all of them is the same messages."""

import pytest

from tokenmill.model.conversation import flaw
from tokenmill.sft.formats import UnreadableError, detected, read

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Add.\n2 and 3"},
    {"role": "assistant", "content": "5"},
]
ALPACA = {"instruction": "Add.", "input": "2 and 3", "output": "5", "system": "Be brief."}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "Add.\n2 and 3"}, {"from": "gpt", "value": "5"}],
    "system": "Be brief.",
}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
CALLING = [
    {"role": "user", "content": "2+3?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "5"},
    {"role": "assistant", "content": "Five."},
]


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"messages": TURNS}, "messages"),
        ({"conversations": TURNS}, "messages"),
        (ALPACA, "alpaca"),
        (SHAREGPT, "sharegpt"),
    ],
)
def test_one_conversation_in_every_format(row, form):
    assert detected(row) == form
    assert read(row) == read(row, form) == {"messages": TURNS}


def test_alpaca_without_input_and_with_earlier_turns():
    row = {"instruction": "And 4?", "input": "", "output": "9", "history": [["2+3?", "5"]]}
    assert [m["content"] for m in read(row)["messages"]] == ["2+3?", "5", "And 4?", "9"]


OPENAI = [
    {"role": "user", "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "3?"}]},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
    ]},
    {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "5"},
    {"role": "assistant", "content": "Five.", "tool_calls": None},
]  # fmt: skip
OLDER = [
    OPENAI[0],
    {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 2, "b": 3}'}},
    {"role": "function", "name": "add", "content": "5"},
    OPENAI[3],
]
LLAMA_FACTORY = [
    {"from": "human", "value": "2+3?"},
    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2, "b": 3}}'},
    {"from": "observation", "value": "5"},
    {"from": "gpt", "value": "Five."},
]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": OPENAI, "tools": TOOLS},
        {"messages": OLDER, "tools": '[{"type": "function", "function": {"name": "add", "parameters": {}}}]'},
        {"conversations": LLAMA_FACTORY, "tools": TOOLS},
    ],
)
def test_tool_calls_of_every_kind_are_one(row):
    record = read(row)
    assert record == {"messages": CALLING, "tools": TOOLS}
    assert flaw(**record) == ""


def test_internlm2s_own_turns_stay_as_they_are():
    turns = [
        {"role": "system", "name": "<|interpreter|>", "content": "Python."},
        {"role": "user", "name": "file", "content": '[{"path": "a.csv"}]'},
        {"role": "assistant", "content": "<|action_start|><|interpreter|>\nprint(1)<|action_end|>"},
        {"role": "environment", "name": "<|interpreter|>", "content": "1"},
    ]
    assert read({"messages": turns})["messages"] == turns


@pytest.mark.parametrize("flag", [{"output_with_loss": False}, {"output_with_loss": 0}, {"weight": 0}, {"loss": False}])
def test_turns_that_are_not_to_be_learned(flag):
    turns = [*TURNS[:2], TURNS[2] | flag]
    assert read({"messages": turns})["messages"][2] == TURNS[2] | {"output_with_loss": False}
    asked, answer = SHAREGPT["conversations"]
    (_, read_only) = read({"conversations": [asked, answer | flag]})["messages"]
    assert read_only == TURNS[2] | {"output_with_loss": False}


@pytest.mark.parametrize(
    ("row", "form", "why"),
    [
        ("hello", None, "no record"),
        ({"prompt": "a", "completion": "b"}, None, "unknown format (it has the fields completion, prompt;"),
        ({"messages": TURNS}, "sharegpt", "no conversations"),
        (ALPACA, "messages", "no messages"),
        ({"instruction": 7, "output": "x"}, None, "instruction or input that is no text"),
        ({"instruction": "a", "history": [["b"]]}, None, "history that is no list of pairs"),
        ({"messages": TURNS, "tools": "[add]"}, None, "tools that are not JSON"),
        ({"conversations": [{"from": "function_call", "value": "add(2)"}]}, None, "tool call that is not JSON"),
    ],
)
def test_what_cannot_be_read_says_why(row, form, why):
    with pytest.raises(UnreadableError) as refused:
        read(row, form)
    assert str(refused.value).startswith(why)
