"""A repository as long conversations: files depth-first, to the limit, the one that is too much in the next sample."""

import pytest
from pico import Lab

from tokenmill.errors import InputError
from tokenmill.model.chat import encode
from tokenmill.model.conversation import flaw
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.records import read_jsonl
from tokenmill.repositories.files import Repository
from tokenmill.sft.config import RepositoriesConfig
from tokenmill.sft.repositories import Samples, asked_and_answered, depth_first, described
from tokenmill.steps import Drop, Keep

BODY = "value = value + 1  # count the ships that came home\n" * 6
WORDS = Tokenizer.train(
    [BODY * 20, "You write the repository user\nassistant\nsystem\nimports .py python"], vocab_size=512
)


def file(path: str, text: str, lang: str = "python", **more) -> dict:
    told = {"id": path, "path": path, "lang": lang, "text": text, "source": "mine", "type": "code", "scores": {}}
    return told | more


def test_one_chain_of_imports_is_followed_to_its_end_before_the_next():
    """By hand: main imports a and b, a imports deep: a topological order by distance would put deep and b together."""
    edges = {"main.py": {"a.py", "b.py"}, "a.py": {"deep.py"}, "b.py": set(), "deep.py": set(), "alone.py": set()}
    assert depth_first(edges) == ["alone.py", "deep.py", "a.py", "b.py", "main.py"]


def test_every_file_comes_once_after_what_it_imports_but_for_cycles():
    chain = {f"{n:05d}.py": {f"{n + 1:05d}.py"} for n in range(5000)} | {"05000.py": set()}
    assert depth_first(chain) == sorted(chain, reverse=True)  # deeper than Python's stack
    cycle = {"a.py": {"b.py"}, "b.py": {"c.py"}, "c.py": {"a.py"}, "z.py": {"b.py"}}
    assert depth_first(cycle) == ["a.py", "c.py", "b.py", "z.py"]
    shared = {"a.py": {"s.py"}, "b.py": {"s.py"}, "s.py": set()}
    assert depth_first(shared) == ["s.py", "a.py", "b.py"]


FILES = [
    file("README.md", "# Ships\n\nThey come home.", "markdown"),
    file("main.py", f'"""Counts ships."""\nimport harbour\nimport sea\n{BODY}'),
    file("harbour.py", f"# Where they lie.\nimport rope\n{BODY}"),
    file("rope.py", BODY),
    file("sea.py", BODY),
    file("empty.py", ""),
]  # fmt: skip


def samples(files, max_tokens):
    outcomes = list(Samples(Repository("mine"), WORDS, max_tokens).of(files))
    kept = [o.record for o in outcomes if isinstance(o, Keep)]
    return kept, [(o.reason, o.record["path"]) for o in outcomes if isinstance(o, Drop)]


def paths(sample) -> list[str]:
    return [part["path"] for part in sample["files"]]


def test_with_room_for_all_it_is_one_conversation_whose_answers_are_the_files():
    (sample,), dropped = samples(FILES, 100_000)
    assert dropped == [("no_answer", "empty.py")]
    assert paths(sample) == ["README.md", "rope.py", "harbour.py", "sea.py", "main.py"]
    assert flaw(sample["messages"]) == ""
    asked = [m["content"] for m in sample["messages"] if m["role"] == "user"]
    assert asked[-1] == "main.py (python): Counts ships. It imports harbour.py, sea.py."
    assert asked[2] == "harbour.py (python): Where they lie. It imports rope.py."
    assert "the repository mine: 6 files of markdown, python" in sample["messages"][0]["content"]
    answers = [m["content"] for m in sample["messages"] if m["role"] == "assistant"]
    assert answers[0] == "## README.md\n\n# Ships\n\nThey come home."
    assert answers[1] == f"## rope.py\n\n```python\n{BODY}\n```"


@pytest.mark.parametrize("max_tokens", range(400, 920, 10))
def test_no_sample_exceeds_the_limit_none_could_hold_its_next_file_and_nothing_is_lost(max_tokens):
    kept, dropped = samples(FILES, max_tokens)
    assert dropped == [("no_answer", "empty.py")]
    assert [p for s in kept for p in paths(s)] == ["README.md", "rope.py", "harbour.py", "sea.py", "main.py"]
    by_path = {f["path"]: f for f in FILES}
    lengths = [len(encode(s["messages"], WORDS).ids) for s in kept]
    assert max(lengths) <= max_tokens and len(kept) > 1
    for sample, length, after in zip(kept, lengths, kept[1:], strict=False):
        first = asked_and_answered(by_path[paths(after)[0]], ())
        assert length + len(encode(first, WORDS).ids) + 20 > max_tokens  # 20: "It imports …" at most
        assert after["messages"][0] == sample["messages"][0]  # told anew what the repository is


def test_files_that_cannot_be_an_answer_are_dropped_with_their_reason():
    odd = [
        file("long.py", BODY * 50),
        file("chat.py", 'START = "<|action_start|>"'),
        file("rope.py", BODY),
        file("rope.py", "another", id="rope.py-2"),
    ]
    kept, dropped = samples(odd, 400)
    assert [paths(s) for s in kept] == [["rope.py"]]
    assert sorted(dropped) == [
        ("another_file_there", "rope.py"), ("longer_than_a_sample", "long.py"), ("no_answer", "chat.py")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"""Counts ships.\n\nMore."""\n', ": Counts ships."),
        ("'''Counts ships.'''", ": Counts ships."),
        ("// Counts ships.\nint x;", ": Counts ships."),
        ("/* Counts ships. */\nint x;", ": Counts ships."),
        ("# Ships\n\nThey come home.", ": Ships"),
        ("#!/bin/sh\necho", ""),
        ("import os\n# later", ""),
        ("x = 1", ""),
    ],
)
def test_a_file_is_described_by_what_it_says_of_itself_first(text, said):
    assert described(text) == said


def test_the_step_takes_repositories_apart_and_refuses_joined_files(tmp_path):
    lab = Lab(tmp_path)
    folder = tmp_path / "words"
    WORDS.save(folder)
    words = lab.issue_folder("tokenizer", folder)
    rows = [*FILES, file("x.py", BODY, source="other"), file("y.py", BODY, source="other", repository="second")]
    corpus = lab.issue("corpus", {"type=code/lang=python/part-00000.jsonl.zst": rows})
    made = lab.step("sft.repositories", RepositoriesConfig(max_tokens=4096), corpus=corpus, tokenizer=words)["output"]
    kept = [r for shard in made.shards for r in read_jsonl(lab.store.blob_path(shard.blob))]
    assert [(r["source"], len(r["files"])) for r in kept] == [("mine", 5), ("other", 1), ("other", 1)]
    assert made.dropped == {"no_answer": 1}
    config = RepositoriesConfig(sources=("other",))
    assert lab.step("sft.repositories", config, corpus=corpus, tokenizer=words)["output"].counts["records"] == 2
    joined = lab.issue("corpus", {"type=code/lang=python/part-00000.jsonl.zst": [rows[0] | {"files": []}]})
    with pytest.raises(InputError, match="already joined"):
        lab.step("sft.repositories", RepositoriesConfig(), corpus=joined, tokenizer=words)
    with pytest.raises(InputError, match="no file of code"):
        lab.step("sft.repositories", RepositoriesConfig(sources=("none",)), corpus=corpus, tokenizer=words)
