"""What the reward model reads: the domain's system prompt, dialogue, answer, reward token (report §4.2.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from tokenmill.errors import InputError
from tokenmill.model.chat import encode_judged, encode_prompt
from tokenmill.model.conversation import flaw
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.records import Record
from tokenmill.rlhf.set_aside import SetAside
from tokenmill.steps.outcomes import short

NO_PROMPT = "which has no prompt in rm_prompts.yaml, nor one in rlhf.read_preferences.prompts"
_ANSWERED = {"role": "assistant", "content": "…"}
"""Any answer: with one, what waits for it must be a conversation."""


@dataclass(frozen=True)
class Query:
    """A dialogue that waits for an answer, and the domain whose wishes the answer is judged by."""

    id: str
    domain: str
    prompt: tuple[Mapping[str, Any], ...]
    own_condition: str = ""
    """The conditional prompt of a domain that people brought: its records carry it, rm_prompts.yaml has it not."""

    @property
    def condition(self) -> str | None:
        """What the reward model is told of the wishes that count; None where nobody has said."""
        return self.own_condition or conditional_prompts().get(self.domain)

    @classmethod
    def of(cls, record: Record) -> "Query":
        """From a record of queries or of preferences.

        Raises:
            NoDialogueError: nothing is asked, or what is asked is no conversation.
        """
        messages = record.get("prompt") or record["messages"]
        why = flaw([*messages, _ANSWERED]) if messages else "nothing is asked"
        if why:
            raise NoDialogueError(record["id"], why)
        return cls(record["id"], record["domain"], tuple(messages), record.get("condition", ""))


class NoDialogueError(InputError):
    """A record waits for no answer; `kind` says why, without what is its own."""

    def __init__(self, identity: str, why: str) -> None:
        super().__init__(f"{identity}: {why}")
        self.kind = short(why)


@cache
def conditional_prompts() -> dict[str, str]:
    """Domain → system prompt: rm_prompts.yaml."""
    return dict(yaml.safe_load((resources.files("tokenmill.rlhf") / "rm_prompts.yaml").read_text("utf-8")))


def sound_queries(
    records: Sequence[Record], tokenizer: Tokenizer, *, context: int, max_length: int
) -> tuple[list[Query], SetAside]:
    """The queries that can be asked and judged; the others are set aside with their reason.

    Args:
        context: tokens that the policy reads at most; an answer needs one of them.
        max_length: tokens that the reward model reads at most, its prompt and the reward token included.
    """
    queries, aside = [], SetAside()
    for record in records:
        try:
            query = Query.of(record)
            asked = len(encode_prompt(query.prompt, tokenizer))
            if not query.condition:
                aside.add(record, f"of domain {query.domain!r}, {NO_PROMPT}")
            elif asked >= context or len(reward_input(query, [], tokenizer, max_length=max_length + 1)) >= max_length:
                aside.add(record, "too long to be answered and judged")
            else:
                queries.append(query)
        except (InputError, KeyError, TypeError, AttributeError) as error:
            aside.add(record, unreadable(error))
    return queries, aside


def unreadable(error: Exception) -> str:
    """Why a record is no dialogue, to count by."""
    if isinstance(error, NoDialogueError):
        return f"that are no dialogue: {error.kind}"
    return f"without {error}" if isinstance(error, KeyError) else f"not to be read: {error}"


def reward_input(
    query: Query, answer: Sequence[int], tokenizer: Tokenizer, *, max_length: int, conditional: bool = True
) -> list[int]:
    """Token ids of one judged answer. The actor, the critic and the reference never see the conditional prompt.

    `conditional=False` leaves it out: then nothing can tell the domains apart.
    """
    if not query.condition:
        raise InputError(f"{query.id}: of domain {query.domain!r}, {NO_PROMPT}")
    condition = [{"role": "system", "content": query.condition}] if conditional else []
    return encode_judged([*condition, *query.prompt], answer, tokenizer, max_length=max_length)


def prompts_of(records: Sequence[Record]) -> dict[str, str]:
    """Domain → conditional prompt of what a reward model learns: what it must be told where it is asked.

    Raises:
        InputError: a domain has two.
    """
    found: dict[str, str] = {}
    for record in records:
        query = Query.of(record)
        if found.setdefault(query.domain, query.condition or "") != query.condition:
            raise InputError(
                f"{query.id}: domain {query.domain!r} has two prompts, {found[query.domain]!r} and {query.condition!r}: "
                "labels of a prompt that was changed keep theirs; give the new prompt a domain of its own"
            )
    return found
