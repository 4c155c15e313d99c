"""The names by which phases hand artifacts to each other, and which task makes each."""

from typing import NamedTuple

from tokenmill.store import ArtifactStore
from tokenmill.tracking import read_events


class Maker(NamedTuple):
    """Who makes an artifact."""

    pipeline: str
    task: str
    """Of a step that runs once a round, without the round."""
    role: str


HANDED_ON = {
    "sources": Maker("curation", "curation.register_sources", "output"),
    "corpus": Maker("curation", "curation.order_code", "output"),
    "retrieved": Maker("retrieval", "curation.retrieve", "corpus"),
    "tokenizer": Maker("pretraining", "pretraining.train_tokenizer", "output"),
    "tokens": Maker("pretraining", "pretraining.tokenize", "output"),
    "base": Maker("pretraining", "pretraining.pretrain.long", "weights"),
    "enhanced": Maker("enhancement", "enhancement.enhance", "weights"),
    "sft": Maker("sft", "sft.train", "weights"),
    "reward_model": Maker("alignment", "rlhf.reward_model", "weights"),
    "chat": Maker("alignment", "rlhf.decide", "policy"),
    "evaluation": Maker("evaluation", "evaluation.evaluate.chat", "output"),
    "training_sets": Maker("evaluation", "evaluation.collect_training_sets", "output"),
    "verdict": Maker("evaluation", "evaluation.gate", "output"),
}
"""Name → maker, in the order of a model's life."""


def handed_on(store: ArtifactStore, run: str) -> dict[str, str]:
    """Name → digest of what a run made that other pipelines take."""
    outputs = {
        e.task.partition(".round-")[0]: e.data["outputs"] for e in read_events(store, run) if e.kind == "step_finished"
    }  # the last round stays
    return {
        name: outputs[maker.task][maker.role]["digest"] for name, maker in HANDED_ON.items() if maker.task in outputs
    }
