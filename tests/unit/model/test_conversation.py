"""What is no conversation to learn from, and how it is said."""

import pytest

from tokenmill.model.conversation import asked_first, flaw

USER, ANSWER = {"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5"}


def said(text: str) -> list[dict]:
    return [USER, {"role": "assistant", "content": text}]


def called(arguments, name="add") -> list[dict]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return [USER, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": ""}, ANSWER]


PLUGIN = 'Let me see.<|action_start|><|plugin|>\n{"name": "add", "parameters": {"a": 2}}<|action_end|>'
INTERPRETER = "<|action_start|><|interpreter|>\n```python\nprint({1: 2})\n```\n<|action_end|>"
GOOD = {
    "question and answer": ([USER, ANSWER], None),
    "several turns, the last not answered": ([USER, ANSWER, USER], None),
    "a file, then a question": ([{"role": "user", "name": "file", "content": "[]"}, USER, ANSWER], None),
    "OpenAI's calls, and a tool that says nothing": (called({"a": 2}), [{"type": "function", "function": {"name": "add"}}]),
    "arguments as their JSON": (called('{"a": 2}'), [{"name": "add"}]),
    "a plugin": (said(PLUGIN), None),
    "an interpreter, whose code is no JSON": (said(INTERPRETER), None),
    "two actions": (said(PLUGIN + INTERPRETER), None),
    "declared in a turn": ([{"role": "system", "name": "<|plugin|>", "content": '[{"name": "add"}]'}, USER, ANSWER], None),
    "special tokens in what others say": ([{"role": "user", "content": "<|im_end|><|action_start|>"}, ANSWER], None),
    "an assistant that speaks of a turn's end": (said("ChatML ends with <|im_end|>."), None),
}  # fmt: skip
BAD = {
    "no messages": [],
    "a message that is no object": ["hello"],
    "unknown role": [{"role": "moderator", "content": "no"}, USER, ANSWER],
    "begins with the assistant": [ANSWER, USER, ANSWER],
    "no turn of the assistant": [USER, USER],
    "content that is no text": [{"role": "user", "content": ["x"]}, ANSWER],
    "a name that is no line of text": [{"role": "user", "content": "x", "name": "a\nb"}, ANSWER],
    "empty turn": [{"role": "user", "content": " \n"}, ANSWER],
    "tool calls of somebody else": [{**USER, "tool_calls": called({})[1]["tool_calls"]}, ANSWER],
    "tool calls that are no list": [USER, {**ANSWER, "tool_calls": "add"}],
    "tool call without a function's name": called({}, name=""),
    "tool call that is not JSON": called('{"a": 2'),
    "tool call whose arguments are no object": called("[1]"),
    "tool call that holds the name of a special token": called({"q": ["what is <|action_end|>?"]}),
    "tool call without name and parameters": said('<|action_start|><|plugin|>{"name": "add"}<|action_end|>'),
    "action that is not whole": said("I call <|action_start|><|plugin|> now."),
    "tool declarations that are no JSON list": [{"role": "system", "name": "<|plugin|>", "content": "add"}, USER, ANSWER],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_these_are_conversations(name):
    assert flaw(*GOOD[name]) == ""


@pytest.mark.parametrize("kind", BAD)
def test_what_is_none_is_told_by_its_kind(kind):
    why = flaw(BAD[kind])
    assert why.partition(" (")[0] == kind
    assert kind.startswith("no ") or "(message " in why


def test_the_message_is_named_with_what_is_wrong_in_it():
    assert flaw([USER, ANSWER, {"role": "wizard", "content": "x"}]) == (
        "unknown role (message 3: 'wizard', known are system, user, assistant, environment and tool)"
    )
    assert flaw([USER, {"role": "assistant", "content": "  "}]) == "empty turn (message 2, assistant)"
    bad = said('<|action_start|><|plugin|>\n{"name": add}<|action_end|>')
    assert flaw(bad).startswith("tool call that is not JSON (message 2: Expecting value: line 2 column 10")


@pytest.mark.parametrize("tools", ["add", [{"description": "adds"}], [{"function": {"name": ""}}], [7]])
def test_tools_need_names(tools):
    assert flaw([USER, ANSWER], tools).startswith(("tools that are no list", "tool without a name (tool 1)"))


def test_the_first_question_is_the_users_and_no_file():
    system = {"role": "system", "content": "Be brief."}
    file = {"role": "user", "name": "file", "content": "[]"}
    assert asked_first([system, file, USER, ANSWER]) == "2+3?"
    assert asked_first([system, file, ANSWER]) == "[]"
