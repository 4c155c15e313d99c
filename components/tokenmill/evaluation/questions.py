"""Suites of questions: what a record of each mode holds, and questions that are made rather than collected.

A `questions` artifact has one shard a suite, `<mode>/<suite>.jsonl.zst`. A record has an `id` and, by mode,

    perplexity      text, or messages (then only what the assistant says counts)
    choice          question, choices (each the question with one answer filled in), answer (index of the right one)
    generate        question, answer
    format          messages, the last of which is the user's
    contamination   question, answer, split (train | test | reference)
"""

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from tokenmill.records import JSONL, Record

Mode = Literal["perplexity", "choice", "generate", "format", "contamination"]

GREETINGS = (
    "Hello!", "Good morning.", "How are you today?", "What is your name?", "Can you help me?",
    "Tell me something nice.", "What do you like to read?", "Do you know a good story?",
    "What is your favourite colour?", "Where are you from?", "Thank you very much.", "I am tired today.",
    "What shall we do tomorrow?", "Do you like music?", "你好！", "你叫什么名字？",
)  # fmt: skip
"""Prompts of the instruction-format suite where no held-out conversations are given."""


def shard_name(mode: Mode, suite: str) -> str:
    return f"{mode}/{suite}{JSONL}"


def suite_of(shard: str) -> tuple[str, str]:
    """`choice/next_line.jsonl.zst` → (`choice`, `next_line`)."""
    mode, _, suite = shard.removesuffix(JSONL).partition("/")
    return mode, suite


def drawn(records: Iterable[Record], seed: int) -> list[Record]:
    """The records in an order drawn by their ids: the same draw whatever order and shards they came in."""
    return sorted(records, key=lambda record: draw(f"{seed}:{record['id']}"))


def draw(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def domain_of(record: Record) -> str:
    """Code and mathematics are domains of their own; other documents go by language."""
    return str(record["type"] if record["type"] in ("code", "math") else record["lang"])


def beginning(text: str, size: int) -> str:
    """The first `size` bytes of a text, whole characters only."""
    return text.encode()[:size].decode(errors="ignore")


def perplexity_set(documents: Sequence[Record], total: int, document: int) -> Iterator[Record]:
    """Beginnings of documents, of about `total` bytes together."""
    for record in documents:
        if total <= 0:
            return
        text = beginning(record["text"], min(document, total))
        total -= len(text.encode())
        if text.strip():
            yield {"id": record["id"], "text": text}


def larger_number(n: int, seed: int) -> Iterator[Record]:
    """Which of two numbers is larger: knowledge that a wrong layer destroys."""
    chance = random.Random(f"{seed}:larger")
    for i in range(n):
        a, b = chance.sample(range(10, 1000), 2)
        question = f"Question: Which number is larger, {a} or {b}?\nAnswer: "
        yield {
            "id": f"{i:04d}",
            "question": question,
            "choices": [f"{question}{x}" for x in (a, b)],
            "answer": int(b > a),
        }


def next_line(documents: Sequence[Record], n: int, choices: int, seed: int) -> Iterator[Record]:
    """The line that follows in a real document, among lines of its length from others of the same domain."""
    chance = random.Random(f"{seed}:next_line")
    passages = [passage for document in documents if (passage := _passage(document, chance))]
    for record, before, line in passages[:n]:
        others = {p[2] for p in passages if domain_of(p[0]) == domain_of(record) and p[0]["id"] != record["id"]} - {
            line
        }
        nearest = sorted(others, key=lambda other: (abs(len(other) - len(line)), draw(record["id"] + other)))
        wrong = nearest[: choices - 1]
        if len(wrong) < choices - 1:
            continue
        answer = chance.randrange(choices)
        lines = [*wrong[:answer], line, *wrong[answer:]]
        yield {
            "id": record["id"],
            "question": before,
            "choices": [f"{before}\n{line}" for line in lines],
            "answer": answer,
        }


def _passage(
    record: Record, chance: random.Random, context: int = 3, most: int = 120
) -> tuple[Record, str, str] | None:
    """Some lines of a document and the one after them, none of them trivial."""
    lines = [line for line in record["text"].splitlines() if line.strip()]
    places = [i for i in range(context, len(lines)) if 16 <= len(lines[i].strip()) <= most]
    if not places:
        return None
    place = chance.choice(places[:50])
    before = "\n".join(line[:most] for line in lines[place - context : place])
    return record, before, lines[place]


def problems(documents: Iterable[Record]) -> Iterator[Record]:
    """Documents that are a question with a verifiable answer."""
    for record in documents:
        if record.get("question") and record.get("answer"):
            yield {"id": record["id"], "question": record["question"], "answer": record["answer"]}


def asked(conversations: Iterable[Record]) -> Iterator[Record]:
    """Conversations whose first question has a verifiable answer."""
    for record in conversations:
        if record.get("answer") and record["messages"][0]["role"] == "user":
            yield {"id": record["id"], "question": record["messages"][0]["content"], "answer": record["answer"]}


def sums(n: int, seed: int) -> Iterator[Record]:
    """Sums of two numbers, where no corpus has problems."""
    chance = random.Random(f"{seed}:sums")
    for i in range(n):
        a, b = chance.randrange(2, 100), chance.randrange(2, 100)
        yield {"id": f"{i:04d}", "question": f"What is {a} + {b}?", "answer": str(a + b)}


def prompts(conversations: Iterable[Record], n: int) -> Iterator[Record]:
    """Conversations up to the user turn before the first answer."""
    for record in conversations:
        messages = record["messages"]
        first = next((i for i, m in enumerate(messages) if m["role"] == "assistant"), len(messages))
        if n > 0 and first and messages[first - 1]["role"] == "user":
            n -= 1
            yield {"id": record["id"], "messages": messages[:first]}
