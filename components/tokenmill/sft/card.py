"""The data card: what a model is fine-tuned on, from whom and under which licence, and what was left out and why."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import median
from typing import Any

import orjson

from tokenmill.config import StepConfig
from tokenmill.language import language
from tokenmill.lineage import upstream
from tokenmill.manifest import Draft, Manifest
from tokenmill.model.conversation import ACTIONS
from tokenmill.records import Record
from tokenmill.registered import CHAT
from tokenmill.sft.card_page import html, markdown
from tokenmill.steps import StepContext, effect
from tokenmill.steps.outcomes import short

DATA, PAGE, TEXT = "card.json", "card.html", "card.md"
EDGES = (0, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 200_000)
"""Characters at which the bins of lengths begin."""
EXAMPLES = 3
"""Records that are named of each reason."""
HEARD = 300
"""Conversations of a source whose language is told: a millisecond each."""


class CardConfig(StepConfig):
    """The card has no options."""


@effect("sft.card", version=1, kinds={"conversations": "conversations", "heldout": "conversations"})
def card(config: CardConfig, conversations: Manifest, heldout: Manifest | None, ctx: StepContext) -> Draft:
    """Describe the conversations that are trained on, as data, page and Markdown.

    An effect: licences and what was left out are read off the lineage, which no content covers.
    """
    told = describe(ctx.records(conversations)) | {
        "conversations": conversations.digest,
        "heldout": heldout.counts["records"] if heldout else 0,
        "dropped": left_out(conversations, ctx),
    }
    registered = licences(conversations, ctx)
    for row in told["sources"]:
        licence, origin = registered.get(row["source"], ("made by TokenMill", "generated in sft.prepare"))
        row |= {"licence": licence, "origin": origin}
    folder = ctx.workdir / "card"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DATA).write_bytes(orjson.dumps(told, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
    (folder / PAGE).write_text(html(told), "utf-8")
    (folder / TEXT).write_text(markdown(told), "utf-8")
    draft = ctx.write_files("report", folder, counts={"records": told["records"], "sources": len(told["sources"])})
    for shard in draft.shards:
        ctx.events.artifact(shard.name, shard.blob)
    return draft


def licences(conversations: Manifest, ctx: StepContext) -> dict[str, tuple[str, str]]:
    """Licence and origin of every source that conversations were read from; others may bear a generator's name."""
    found = upstream(ctx.store, conversations.digest)
    read = {
        tuple(shard.name.split("/")[:2])
        for manifest in found.nodes.values()
        if manifest.kind == "sources"
        for shard in manifest.shards
    }
    return {s.name: (s.licence, s.origin) for s in found.sources if {("qa", s.name), (CHAT, s.name)} & read}


def left_out(conversations: Manifest, ctx: StepContext) -> list[dict[str, Any]]:
    """What the steps on the way to these conversations dropped and rejected: step, reason, how many, the first few."""
    found = upstream(ctx.store, conversations.digest).nodes.values()
    told = []
    for manifest in found:
        if manifest.kind == conversations.kind and manifest.dropped:
            examples = first_of_each(manifest, ctx)
            for reason, count in sorted(manifest.dropped.items(), key=lambda item: (-item[1], item[0])):
                row = {"step": manifest.step, "reason": reason, "records": count}
                told.append(row | {"examples": examples.get(reason, [])})
    return told


def first_of_each(manifest: Manifest, ctx: StepContext) -> dict[str, list[str]]:
    """Reason → where its first records stand, and what is wrong with them."""
    examples: dict[str, list[str]] = {}
    for shard in manifest.aside:
        for record in ctx.records(manifest, shard):
            rejected = "where" in record
            reason = f"rejected:{short(record['reason'])}" if rejected else record["dropped"]["reason"]
            known = examples.setdefault(reason, [])
            if len(known) < EXAMPLES:
                known.append(f"{record['where']}: {record['reason']}" if rejected else str(record["id"]))
    return examples


@dataclass
class _Described:
    """Counts of some conversations."""

    lengths: list[int] = field(default_factory=list)
    turns: Counter[int] = field(default_factory=Counter)
    heard: Counter[str] = field(default_factory=Counter)
    """Languages of the first so many: they come in an order that says nothing."""
    topics: Counter[str] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        messages = record["messages"]
        text = "\n".join(message["content"] for message in messages)
        self.lengths.append(len(text))
        self.turns[sum(message["role"] == "assistant" for message in messages)] += 1
        self.topics[topic(record)] += 1
        self.features.update(features(record))
        if len(self.lengths) <= HEARD:
            self.heard[language(text)] += 1

    @property
    def languages(self) -> Counter[str]:
        """How many there are of each, by their share of those that were heard."""
        n, heard = len(self.lengths), self.heard.total()
        return Counter({name: round(n * count / heard) for name, count in self.heard.items()})


def describe(records: Iterable[Record]) -> dict[str, Any]:
    """Sources, topics, languages, lengths, turns and features of conversations."""
    by_source: dict[str, _Described] = {}
    for record in records:
        by_source.setdefault(record.get("source", ""), _Described()).add(record)
    every = by_source.values()
    lengths = list(chain.from_iterable(one.lengths for one in every))
    turns = _sum(one.turns for one in every)
    return {
        "records": len(lengths),
        "characters": sum(lengths),
        "topics": dict(_sum(one.topics for one in every).most_common()),
        "languages": dict(_sum(one.languages for one in every).most_common()),
        "answers": {str(n): turns[n] for n in sorted(turns)},
        "features": dict(_sum(one.features for one in every).most_common()),
        "lengths": {"edges": EDGES, "records": histogram(lengths), "median": round(median(lengths or [0]))},
        "sources": [
            {
                "source": name,
                "records": len(one.lengths),
                "characters": sum(one.lengths),
                "languages": dict(one.languages.most_common()),
            }
            for name, one in sorted(by_source.items(), key=lambda item: (-len(item[1].lengths), item[0]))
        ],
    }


def _sum(counters: Iterable[Counter[Any]]) -> Counter[Any]:
    whole = Counter[Any]()
    for one in counters:
        whole.update(one)
    return whole


def histogram(lengths: Sequence[int]) -> list[int]:
    """Records a bin; the last has no end."""
    bins = [0] * len(EDGES)
    for length in lengths:
        bins[bisect_right(EDGES, length) - 1] += 1
    return bins


_CODE = re.compile(
    r"```|^\s*(?:def \w+\(|class \w+[(:]|import \w+$|from \w+ import |function \w*\(|#include|public static |SELECT .* FROM )",
    re.MULTILINE,
)
_SUM = re.compile(
    r"\d\s*[+*×÷=^]\s*\d|\d\s+[-/<>]\s+\d|\\(?:boxed|frac|sqrt)|^####\s*-?\d|\$[^$\n]*[\\^_=][^$\n]*\$", re.MULTILINE
)


def topic(record: Record) -> str:
    """One of the report's topics (§4.1), by signs that a program sees: tools, code, figures; else conversation."""
    if uses_tools(record):
        return "function calls"
    said = "\n".join(message["content"] for message in record["messages"])
    if _CODE.search(said):
        return "code"
    return "mathematics" if record.get("answer") or _SUM.search(said) else "conversation"


def features(record: Record) -> Iterator[str]:
    """What a conversation has besides questions and answers."""
    messages = record["messages"]
    if any(m["role"] == "system" and not m.get("name") for m in messages):
        yield "system prompt"
    if uses_tools(record):
        yield "tools"
    if any(m.get("output_with_loss") is False for m in messages):
        yield "answers that are not learned"


def uses_tools(record: Record) -> bool:
    """Whether tools are declared, called or answer."""
    return bool(record.get("tools")) or any(
        m["role"] in ("tool", "environment")
        or m.get("tool_calls")
        or (m["role"] == "assistant" and ACTIONS.search(m["content"]))
        for m in record["messages"]
    )
