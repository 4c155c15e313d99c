"""Sources → conversations: the user's own, dialogues between people, arithmetic, and requests answered in two styles."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from pathlib import Path

import orjson

from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest, sha256
from tokenmill.model.conversation import asked_first
from tokenmill.records import Record
from tokenmill.registered import is_chat
from tokenmill.sft import arithmetic, dialogues
from tokenmill.sft.config import PrepareConfig
from tokenmill.sft.read import read_sources, said
from tokenmill.sft.requests import requests
from tokenmill.steps import Drop, Keep, StepContext, step

TRAIN, HELDOUT = "train", "heldout"


@step("sft.prepare", version=7, kinds={"sources": "sources"})
def prepare_conversations(config: PrepareConfig, sources: Manifest, ctx: StepContext) -> dict[str, Draft]:
    """Gather, deduplicate, shuffle and split conversations; all of one question stay on one side of the split.

    What is set aside, as no conversation, taken down or there twice, lies with `train`.
    """
    own = _own(config, sources, ctx)
    records = chain(_gather(config, sources, ctx), ctx.records(own) if own else ())
    kept = ctx.partition(
        once(records, ctx.workdir / "waiting"), kind="conversations", by=partial(side, share=config.heldout_share)
    )
    drafts = {role: _of_side(role, kept, ctx) for role in (TRAIN, HELDOUT)}
    drafts[TRAIN] = _with_aside(drafts[TRAIN], read=own, once=kept)
    return drafts


def _own(config: PrepareConfig, sources: Manifest, ctx: StepContext) -> Draft | None:
    """What the user brings: usable records, and the others with their reasons."""
    if not any(map(is_chat, sources.shards)):
        return None
    read = read_sources(ctx.store, sources, config.formats)
    return ctx.partition(read, kind="conversations", by=lambda record: "own", max_rejected=config.max_rejected)


def once(records: Iterable[Record], spool: Path) -> Iterator[Keep | Drop]:
    """Each conversation once, in the order of their hashes: a shuffle that needs no seed.

    They wait on the local disk, by how their hashes begin: memory holds one in 256 of them.
    """
    spool.mkdir(parents=True)
    beginnings = [f"{number:02x}" for number in range(256)]
    with ExitStack() as opened:
        files = {begins: opened.enter_context((spool / begins).open("wb")) for begins in beginnings}
        for record in records:
            files[said(record)[:2]].write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    for begins in beginnings:
        kept: dict[str, Record] = {}
        with (spool / begins).open("rb") as lines:
            for record in map(orjson.loads, lines):
                if (first := kept.setdefault(said(record), record)) is not record:
                    yield Drop("duplicate", record, first["id"], "once")
        yield from (Keep(record) for _, record in sorted(kept.items()))


def side(record: Record, share: float) -> str:
    """The side of the split that a conversation is on, by what is asked first in it."""
    asked = asked_first(record["messages"]).strip().lower()
    return HELDOUT if int(sha256(asked.encode())[:8], 16) < share * 2**32 else TRAIN


def _of_side(role: str, kept: Draft, ctx: StepContext) -> Draft:
    """The shards of one side under their own names, and how many records are of each source."""
    shards = tuple(
        shard.model_copy(update={"name": shard.name.removeprefix(f"{role}/")})
        for shard in kept.shards
        if shard.name.startswith(f"{role}/")
    )
    draft = Draft(kind=kept.kind, shards=shards)
    counts = Counter(f"records/{record['source']}" for record in ctx.records(draft))
    return draft.model_copy(update={"counts": {"records": counts.total(), **dict(sorted(counts.items()))}})


def _with_aside(draft: Draft, **passes: Draft | None) -> Draft:
    """A draft with what was left out on the way to it, pass by pass."""
    dropped = Counter[str]()
    aside = []
    for name, one in passes.items():
        if one:
            dropped.update(one.dropped)
            for shard in one.aside:
                what, _, number = shard.name.partition("/")
                aside.append(shard.model_copy(update={"name": f"{what}/{name}-{number}"}))
    counts = draft.counts | {
        name: n for name in ("dropped", "rejected") if (n := sum(one.counts[name] for one in passes.values() if one))
    }
    return draft.model_copy(update={"counts": counts, "dropped": dict(sorted(dropped.items())), "aside": tuple(aside)})


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
    question = asked_first(record["messages"])
    identity = f"{source}/{sha256(question.encode())[:16]}{number}"
    return record | {"id": identity, "source": source}
