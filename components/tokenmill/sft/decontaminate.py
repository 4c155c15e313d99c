"""Conversations without what evaluation asks."""

from dataclasses import dataclass

from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.overlap import Asked, count_by_suite, question_text
from tokenmill.records import Record
from tokenmill.sft.config import DecontaminateConfig
from tokenmill.steps import Drop, StepContext, step


@step("sft.decontaminate", version=3, kinds={"conversations": "conversations", "questions": "questions"})
def decontaminate(config: DecontaminateConfig, conversations: Manifest, questions: Manifest, ctx: StepContext) -> Draft:
    """Drop the conversations that hold a question of evaluation word for word, or that evaluation reads itself.

    Raises:
        InputError: there is nothing to look for.
    """
    asked = Asked.of(config, {shard.name: ctx.records(questions, shard) for shard in questions.shards})
    if not asked.looked_for:
        raise InputError(
            f"the questions {questions.digest[:12]} are none that can be looked for: give what evaluation.prepare made"
        )
    draft = ctx.map_shards(conversations, Unasked(asked), kind="conversations")
    told = {"looked_for": asked.looked_for, "not_looked_for": dict(count_by_suite(asked.index.unsearchable))}
    return draft.model_copy(update={"facts": {"decontamination": told}})


@dataclass(frozen=True)
class Unasked:
    """Decides for one conversation."""

    asked: Asked

    def __call__(self, record: Record) -> Record | Drop:
        if found := self.asked.index.find(question_text({"messages": record["messages"]})):
            return Drop("asked_by_evaluation", record, sorted(found)[:3], 0)
        if record["id"] in self.asked.read:
            return Drop("read_by_evaluation", record, record["id"], 0)
        return record
