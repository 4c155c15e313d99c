"""Suites of questions: what a record of each mode holds, and questions that are made rather than collected.

A `questions` artifact has one shard a suite, `<mode>/<suite>.jsonl.zst`. A record has an `id` and, by mode,

    perplexity      text, or messages (then only what the assistant says counts)
    choice          question, choices (each the question with one answer filled in), answer (index of the right one)
    likelihood      as choice; every choice begins with the question
    generate        question, answer (one, or a list of which any will do); of a dataset also extraction, metric, language;
                    where the metric is judge no answer, but perhaps a baseline to be compared with
    code            question, which begins a program, and test, which checks it; of drawn programs samples, k, temperature
    instructions    question, instructions (a list of kind and parameters, as `instructions.follows` takes them)
    format          messages, the last of which is the user's
    contamination   question, answer, split (train | test | reference)
A circular choice, likelihood or generate question has `turns` too: itself, and itself with its options turned round.
A dataset's records have `shots` too, its worked examples, which are put before the question; it is then asked as it stands.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from heapq import nsmallest
from itertools import islice, zip_longest
from typing import Literal

from tokenmill.records import JSONL, Record

Mode = Literal["perplexity", "choice", "likelihood", "generate", "code", "instructions", "format", "contamination"]

ASKED_IN_FORM = ("generate", "code", "instructions")
"""Modes that ask in `evaluate.form`, as ChatML or as plain text; the others are asked in one form, whatever it says."""

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


def perplexity_set(documents: Sequence[Record], total: int, document: int) -> Iterator[Record]:
    """About `total` bytes: the beginning of every document, then, while there is room, what follows in each."""
    for number, turn in enumerate(zip_longest(*(_pieces(record["text"], document) for record in documents))):
        for record, piece in zip(documents, turn, strict=True):
            if total <= 0:
                return
            if piece and (text := _whole(piece[:total])).strip():
                total -= len(piece)
                yield {"id": record["id"] if number == 0 else f"{record['id']}@{number}", "text": text}


def _pieces(text: str, size: int) -> Iterator[bytes]:
    """A text's UTF-8 in pieces of `size` bytes; a character on a border is in neither."""
    data = text.encode()
    return (data[start : start + size] for start in range(0, len(data), size))


def _whole(data: bytes) -> str:
    """The whole characters in a piece of UTF-8."""
    return data.decode(errors="ignore")


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
    """The line that follows in a real document, among lines of about its length from elsewhere in the domain."""
    chance = random.Random(f"{seed}:next_line")
    pools: dict[str, set[str]] = {}
    for record in documents:
        pools.setdefault(domain_of(record), set()).update(filter(_is_told, _lines(record)))
    turns = zip_longest(*(_passages(record, chance) for record in documents))  # one of each document, then a second…
    for record, number, before, line in islice((passage for turn in turns for passage in turn if passage), 4 * n):
        others = sorted(other for other in pools[domain_of(record)] - {line} if other not in before)
        nearest = _of_like_length(line, others, 4 * (choices - 1))
        if n <= 0 or len(nearest) < choices - 1:
            continue
        n -= 1
        wrong = chance.sample(nearest, choices - 1)
        answer = chance.randrange(choices)
        lines = [*wrong[:answer], line, *wrong[answer:]]
        yield {
            "id": record["id"] if number == 0 else f"{record['id']}@{number}",
            "question": before,
            "choices": [f"{before}\n{line}" for line in lines],
            "answer": answer,
        }


def _of_like_length(line: str, others: Iterable[str], n: int) -> list[str]:
    return nsmallest(n, others, key=lambda other: abs(len(other) - len(line)))


def _lines(record: Record) -> list[str]:
    return [line for line in record["text"].splitlines() if line.strip()]


def _is_told(line: str, least: int = 16, most: int = 120) -> bool:
    """Long enough to be about something, short enough to be a line."""
    return least <= len(line.strip()) <= most


def _passages(
    record: Record, chance: random.Random, context: int = 3, most: int = 120
) -> Iterator[tuple[Record, int, str, str]]:
    """Some lines of a document and the one after them, at places in a drawn order."""
    lines = _lines(record)
    places = [place for place in range(context, len(lines)) if _is_told(lines[place])]
    for number, place in enumerate(chance.sample(places, min(len(places), 100))):
        yield record, number, "\n".join(line[:most] for line in lines[place - context : place]), lines[place]


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
