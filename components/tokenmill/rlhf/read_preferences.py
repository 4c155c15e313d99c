"""The users' own preferences: every file of the sources of type `preferences`, record by record."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenmill.errors import ConfigError
from tokenmill.manifest import Draft, Manifest, canonical, sha256
from tokenmill.model.conversation import Message, flaw
from tokenmill.overlap import Asked, count_by_suite, question_text
from tokenmill.records import JSONL, Record
from tokenmill.registered import FIELDS, is_preferences, told
from tokenmill.rlhf.conditional import conditional_prompts
from tokenmill.rlhf.config import ReadPreferencesConfig
from tokenmill.rows import Damaged, Rows, rows_of
from tokenmill.steps import Drop, Keep, Reject, StepContext, step
from tokenmill.store.layout import TOMBSTONES

Outcome = Keep | Drop | Reject
TEMPLATE = "own"
"""Of pairs that people brought: a control shuffles them together."""
_DOMAIN = re.compile(r"\w[\w-]*")
"""A domain names metrics (`gain/verse`): of "a/../b" MLflow would refuse them, of "a & b" and "a + b" make one."""


class UnreadableError(Exception):
    """A record is no pair: why, with the kind of fault before the first `(` or `:`."""


@step("rlhf.read_preferences", version=2, kinds={"sources": "sources", "questions": "questions"})
def read_preferences(
    config: ReadPreferencesConfig, sources: Manifest, questions: Manifest | None, ctx: StepContext
) -> Draft:
    """Pairs that say something, each once, without those that hold what evaluation asks; the others with their reasons."""
    _require_sound(config.prompts)
    asked = Asked.of(config, {s.name: ctx.records(questions, s) for s in questions.shards}) if questions else None
    if not any(map(is_preferences, sources.shards)):
        return ctx.write_records("preferences", {f"part-00000{JSONL}": []})
    read = _unasked(_once(_read(sources, config, ctx)), asked)
    draft = ctx.partition(read, kind="preferences", by=lambda record: TEMPLATE, max_rejected=config.max_rejected)
    if not asked:
        return draft
    looked_for = {"looked_for": asked.looked_for, "not_looked_for": dict(count_by_suite(asked.index.unsearchable))}
    return draft.model_copy(update={"facts": {"decontamination": looked_for}})


def _require_sound(prompts: Mapping[str, str]) -> None:
    """Refuse prompts that say nothing, and others for the domains that have one: their generated pairs are judged under it."""
    if wrong := sorted(domain for domain in prompts if not _DOMAIN.fullmatch(domain)):
        raise ConfigError(
            f"rlhf.read_preferences.prompts: {wrong[0]!r} cannot name a domain: it has letters, digits, '_' and '-' only"
        )
    if taken := sorted(set(prompts) & set(conditional_prompts())):
        raise ConfigError(
            f"rlhf.read_preferences.prompts: {taken[0]!r} has a prompt in rm_prompts.yaml: name your domain otherwise"
        )
    if empty := sorted(domain for domain, prompt in prompts.items() if not prompt.strip()):
        raise ConfigError(f"rlhf.read_preferences.prompts: the prompt of {empty[0]!r} is empty")


def _read(sources: Manifest, config: ReadPreferencesConfig, ctx: StepContext) -> Iterator[Outcome]:
    fields, taken_down = (told(ctx.store, sources, what) for what in (FIELDS, TOMBSTONES))
    for shard in sorted(filter(is_preferences, sources.shards), key=lambda s: s.name):
        _, source, path = shard.name.split("/", 2)
        file = _File(source, path, config.domains.get(source), fields.get(source, {}), config.prompts)
        gone = frozenset(taken_down.get(source, ()))
        for outcome in file.pairs(rows_of(path, ctx.store.blob_path(shard.blob), "preferences")):
            if isinstance(outcome, Keep) and outcome.record["id"] in gone:
                # and not a word of the text
                told_of = {name: outcome.record[name] for name in ("id", "source", "path")}
                yield Drop("taken_down", told_of, outcome.record["id"], "no pair taken down")
            else:
                yield outcome


def _once(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    seen = set[str]()
    for outcome in outcomes:
        if isinstance(outcome, Keep):
            if outcome.record["id"] in seen:
                yield Drop("duplicate", outcome.record, outcome.record["id"], "once")
                continue
            seen.add(outcome.record["id"])
        yield outcome


def _unasked(outcomes: Iterable[Outcome], asked: Asked | None) -> Iterator[Outcome]:
    """Without the pairs that hold a question of evaluation, word for word."""
    for outcome in outcomes:
        if asked and isinstance(outcome, Keep):
            pair = outcome.record
            said = [*pair["prompt"], *({"content": pair[side]} for side in ("chosen", "rejected"))]
            if found := asked.index.find(question_text({"messages": said})):
                yield Drop("asked_by_evaluation", pair, sorted(found)[:3], 0)
                continue
        yield outcome


@dataclass(frozen=True)
class _File:
    source: str
    path: str
    domain: str | None
    """Of records that name none."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Our name → theirs."""
    own_prompts: Mapping[str, str] = field(default_factory=dict)
    """Domain that rm_prompts.yaml has not → its conditional prompt, which every pair of it carries."""

    def pairs(self, rows: Rows) -> Iterator[Outcome]:
        """An outcome a row. An id follows from what is said, so the same pair has it in every file of a source."""
        for row in rows:
            where = f"{self.source}/{self.path}{row.place}"
            if isinstance(row, Damaged):
                yield Reject(row.reason, where)
                continue
            try:
                yield Keep(self._pair(row.value))
            except UnreadableError as unreadable:
                yield Reject(str(unreadable), where)

    def _pair(self, row: Any) -> Record:
        if not isinstance(row, Mapping):
            raise UnreadableError("no record (an object with fields is wanted)")
        row = dict(row) | {ours: row[theirs] for ours, theirs in self.fields.items() if theirs in row}
        domain, known = row.get("domain") or self.domain, [*conditional_prompts(), *self.own_prompts]
        if domain is None:
            raise UnreadableError(
                f"no domain (name one in the record, or in rlhf.read_preferences.domains.{self.source})"
            )
        if not isinstance(domain, str) or domain not in known:
            raise UnreadableError(
                f"unknown domain ({domain!r:.40}; known: {', '.join(known)}; rlhf.read_preferences.prompts adds others)"
            )
        prompt, chosen, rejected = read_pair(row)
        if chosen.strip() == rejected.strip():
            raise UnreadableError("equal sides")
        pair = {"domain": domain, "prompt": prompt, "chosen": chosen, "rejected": rejected}
        identity = {"id": f"{self.source}/{sha256(canonical(pair))[:16]}"}
        if domain in self.own_prompts:
            pair["condition"] = self.own_prompts[domain]
        traits = {"template": TEMPLATE, "conflict": False, "source": self.source, "path": self.path}
        return identity | pair | traits


def read_pair(row: Mapping[str, Any]) -> tuple[list[Message], str, str]:
    """Prompt, chosen and rejected answer of one record.

    As TRL has them: `prompt` a text or messages, each side a text, or messages that may repeat the prompt (with which
    the prompt may be left out).

    Raises:
        UnreadableError: something is missing, or no dialogue.
    """
    sides = [_messages(row.get(side), side, "assistant") for side in ("chosen", "rejected")]
    if row.get("prompt"):
        prompt = _messages(row["prompt"], "prompt", "user")
    else:
        prompt = _common(*sides)
        if not prompt:
            raise UnreadableError("no prompt (in the field `prompt`, or as the messages that both sides begin with)")
    if isinstance(row.get("system"), str) and row["system"]:
        prompt = [{"role": "system", "content": row["system"]}, *prompt]
    answers = [side[len(prompt) :] if side[: len(prompt)] == prompt else side for side in sides]
    for side, answer in zip(("chosen", "rejected"), answers, strict=True):
        if len(answer) != 1 or not isinstance(answer[0], Mapping) or answer[0].get("role") != "assistant":
            raise UnreadableError(f"{side} that is not one answer of the assistant")
        if why := flaw([*prompt, *answer]):
            raise UnreadableError(why)
    if prompt[-1]["role"] == "assistant":
        raise UnreadableError("a prompt that ends with the assistant")
    chosen, rejected = (str(answer[0]["content"]) for answer in answers)
    return prompt, chosen, rejected


def _messages(given: Any, what: str, role: str) -> list[Message]:
    if isinstance(given, str) and given.strip():
        return [{"role": role, "content": given}]
    if isinstance(given, list) and given:
        return given
    raise UnreadableError(f"no {what} (a text or messages in the field `{what}`)")


def _common(chosen: Sequence[Message], rejected: Sequence[Message]) -> list[Message]:
    """The messages that both sides begin with, without the last of either."""
    return list(chosen[:-1]) if chosen[:-1] == rejected[:-1] else []
