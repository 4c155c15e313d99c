"""Sources → conversations: dialogues between people, arithmetic, and requests answered in two styles."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import orjson

from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest, canonical, sha256
from tokenmill.records import JSONL, Record
from tokenmill.sft import arithmetic, dialogues
from tokenmill.sft.config import PrepareConfig
from tokenmill.sft.requests import requests
from tokenmill.steps import StepContext, step

SHARD = f"part-00000{JSONL}"


@step("sft.prepare", version=5, kinds={"sources": "sources"})
def prepare_conversations(config: PrepareConfig, sources: Manifest, ctx: StepContext) -> dict[str, Draft]:
    """Gather, deduplicate, shuffle and split conversations; all of one question stay on one side of the split."""
    kept: dict[str, Record] = {}
    dropped = Counter[str]()
    for record in _gather(config, sources, ctx):
        said = sha256(canonical(record["messages"]))
        if said in kept:
            dropped["duplicate"] += 1
        else:
            kept[said] = record
    rows = [record for _, record in sorted(kept.items())]  # by hash: a shuffle that needs no seed
    drafts = {}
    for role in ("train", "heldout"):
        chosen = [r for r in rows if _is_heldout(r, config.heldout_share) == (role == "heldout")]
        counts = Counter(f"records/{r['source']}" for r in chosen)
        drafts[role] = ctx.write_records("conversations", {SHARD: chosen}, counts=counts, dropped=dropped)
    return drafts


def _gather(config: PrepareConfig, sources: Manifest, ctx: StepContext) -> Iterator[Record]:
    """Records with id, messages, source. An id is `<source>/<question's hash>`; a request's has `#<style>`."""
    if config.dialogues:
        yield from _dialogues(config, sources, ctx)
    seen = set[str]()
    for record in arithmetic.questions(config.seed):
        if len(seen) == config.arithmetic:
            break
        record = _labelled(record, "arithmetic")
        if record["id"] not in seen:
            seen.add(record["id"])
            yield record
    for answers in islice(requests(config.seed, config.one_sided), config.requests):
        for record in answers:
            yield _labelled(record, "requests", f"#{record['style']}")


def _dialogues(config: PrepareConfig, sources: Manifest, ctx: StepContext) -> Iterator[Record]:
    """As many dialogues as asked for, those whose id hashes lowest."""
    found: list[Record] = []
    for shard in sources.shards:
        kind, source, name = shard.name.split("/", 2)
        if kind != "qa" or not name.endswith(".json"):
            continue
        content = orjson.loads(ctx.store.get_blob(shard.blob))
        if dialogues.is_dialogue_file(content):
            for record in dialogues.conversations(content, config.max_turns, config.max_characters):
                found.append(record | {"id": f"{source}/{record['id']}", "source": source})
    if not found:
        raise InputError(
            "no dialogues in the sources' qa/*.json: register chitchat-dataset, or set sft.prepare.dialogues=0"
        )
    yield from sorted(found, key=lambda r: sha256(f"{config.seed} {r['id']}".encode()))[: config.dialogues]


def _labelled(record: Record, source: str, number: str = "") -> Record:
    question: Any = record["messages"][0]["content"]
    identity = f"{source}/{sha256(question.encode())[:16]}{number}"
    return record | {"id": identity, "source": source}


def _is_heldout(record: Record, share: float) -> bool:
    question: Any = record["messages"][0]["content"]
    return int(sha256(question.strip().lower().encode())[:8], 16) < share * 2**32
