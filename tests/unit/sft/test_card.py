"""The data card counts what is there, names whose it is, and says what was left out."""

import json

import pytest
from pico import Lab

from tokenmill.curation.source_config import RegisterSourcesConfig
from tokenmill.sft.card import CardConfig, describe, topic
from tokenmill.sft.card_page import html, markdown
from tokenmill.sft.config import PrepareConfig


def chat(*said: str, **more) -> dict:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    return {"messages": messages, "source": "mine"} | more


CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}
ACTION = "<|action_start|><|interpreter|>\nprint(1)<|action_end|>"


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (chat("Hello", "Good morning."), "conversation"),
        (chat("I was born in 1990-04.", "A good year."), "conversation"),
        (chat("What is it?", "2 + 3 = 5."), "mathematics"),
        (chat("How many?", "Many.", answer="7"), "mathematics"),
        (chat("Import duties?", "They cost $5 or $6.\nClass dismissed."), "conversation"),
        (chat("Sort a list.", "```python\nsorted(x)\n```"), "code"),
        (chat("Add.", ACTION), "function calls"),
        ({"messages": [{"role": "user", "content": "Add."}, CALL]}, "function calls"),
        (chat("Add 2 + 3", "5", tools=[{"name": "add"}]), "function calls"),
    ],
)
def test_topics_are_told_by_signs(record, kind):
    assert topic(record) == kind


def test_every_conversation_is_counted_once_everywhere():
    chinese = chat("你好，请介绍一下你自己。", "我是一个语言模型。", source="other")
    made = [chat("Hello there, how are you today?", "Fine.", "And now?", "Good.")] * 3 + [chinese]
    told = describe(made)
    assert told["records"] == 4 == sum(told["lengths"]["records"])
    assert told["languages"] == {"en": 3, "zh": 1} and told["answers"] == {"1": 1, "2": 3}
    assert [(s["source"], s["records"]) for s in told["sources"]] == [("mine", 3), ("other", 1)]
    assert told["characters"] == sum(len("\n".join(m["content"] for m in r["messages"])) for r in made)


def test_a_card_names_licences_and_what_was_left_out(tmp_path):
    lab = Lab(tmp_path / "lab")
    rows = [chat(f"Question {i} | of many?", f"<b>Answer {i}</b>.") for i in range(20)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, [*rows, rows[0], {"messages": []}])))
    specs = [
        {"name": "mine", "uri": str(tmp_path / "mine.jsonl"), "type": "chat", "licence": "CC-BY-4.0", "origin": "we"},
        # a source of code that bears the name of a generator here
        {
            "name": "arithmetic",
            "uri": str(tmp_path / "mine.jsonl"),
            "type": "code",
            "licence": "GPL-3.0",
            "origin": "x",
        },
    ]
    registered = lab.step("curation.register_sources", RegisterSourcesConfig(sources=specs))["output"]
    config = PrepareConfig(dialogues=0, arithmetic=5, requests=0, max_rejected=0.5)
    made = lab.step("sft.prepare", config, sources=registered)
    given = {"conversations": made["train"], "heldout": made["heldout"]}
    report = lab.step("sft.card", CardConfig(), **given)["output"]
    files = {shard.name: lab.store.get_blob(shard.blob).decode() for shard in report.shards}
    told = json.loads(files["card.json"])
    assert {s["source"]: s["licence"] for s in told["sources"]} == {
        "mine": "CC-BY-4.0",
        "arithmetic": "made by TokenMill",
    }
    assert told["records"] + told["heldout"] == 25
    assert {d["reason"]: d["records"] for d in told["dropped"]} == {"duplicate": 1, "rejected:no messages": 1}
    (rejected,) = [d["examples"] for d in told["dropped"] if d["reason"] == "rejected:no messages"]
    assert rejected == ["mine/mine.jsonl line 22: no messages"]
    for text in (files["card.md"], files["card.html"]):
        assert all(said in text for said in ("CC-BY-4.0", "there twice", "no conversation: no messages"))


def test_names_from_outside_are_text_on_the_page_and_in_the_table():
    told = describe([chat("Hello", "Hi", source="a<b>|c")]) | {"heldout": 0, "dropped": []}
    told["sources"][0] |= {"licence": "<script>", "origin": ""}
    assert "<script>" not in html(told) and "a&lt;b&gt;|c" in html(told)
    assert r"a<b>\|c" in markdown(told)
