"""Long documents that are one text: by length, by statistics, by perplexity (report §3.1.3). A subset, learned twice.

The order is the report's, and of cost: what is short is not looked at, what the statistics refuse meets no model. The
model is any checkpoint of ours; the pipeline's own Base of the first phase knows the corpus best.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenmill.curation.config import SelectLongConfig
from tokenmill.curation.long_review import write_review
from tokenmill.curation.long_thresholds import beyond, perplexity_threshold, ranges
from tokenmill.curation.statistics_long import STATISTICS, long_statistics
from tokenmill.errors import ConfigError, InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.records import Record
from tokenmill.steps import Drop, Keep, StepContext, step

if TYPE_CHECKING:
    from tokenmill.model.modeling import InternLM2ForCausalLM
    from tokenmill.model.tokenizer import Tokenizer

TOLD = ("id", "type", "lang", "source", "path")
LIBRARIES = ("torch", "numpy", "tokenizers", "ahocorasick-rs")


@step(
    "curation.select_long",
    version=2,
    reproducible="same_platform",
    libraries=LIBRARIES,
    kinds={"corpus": "corpus", "weights": "weights", "tokenizer": "tokenizer"},
)
def select_long(
    config: SelectLongConfig, corpus: Manifest, weights: Manifest, tokenizer: Manifest, ctx: StepContext
) -> dict[str, Draft]:
    """The long documents whose far context helps, with their statistics; and a page of those around the threshold."""
    _refuse_unknown(config)
    chosen = LongDocuments(config, ctx.files(weights), ctx.files(tokenizer))
    chosen.check()
    long = ctx.map_shards(corpus, chosen)
    return {"corpus": long, "review": write_review(config, corpus, long, ctx)}


@dataclass(frozen=True)
class LongDocuments:
    """Keeps or drops one record, in a worker process, which loads the model when it meets the first candidate."""

    config: SelectLongConfig
    weights: Path
    tokenizer: Path

    def check(self) -> None:
        """Refuse, before any work, a model and a tokenizer that do not belong together, and windows it cannot read.

        Raises:
            InputError: what is wrong, and which option to set.
        """
        from tokenmill.model.folder import read_config
        from tokenmill.model.tokenizer import Tokenizer

        model, words = read_config(self.weights), Tokenizer.load(self.tokenizer)
        if model.vocab_size != words.vocab_size:
            raise InputError(
                f"the model has {model.vocab_size} token ids, the tokenizer {words.vocab_size}: "
                "give the tokenizer that it was trained with"
            )
        if self.config.window > model.max_position_embeddings:
            raise InputError(
                f"the model reads {model.max_position_embeddings} tokens, not a window of {self.config.window}: "
                "lower curation.select_long.window"
            )

    def __call__(self, record: Record) -> Keep | Drop:
        text, domain = record["text"], (record["type"], record["lang"])
        size = len(text.encode())
        if size <= self.config.min_bytes:  # not told in full: the corpus would be written a second time
            told = {name: record.get(name) for name in TOLD}
            return Drop("short", told, size, self.config.min_bytes)
        lang = "en" if record["type"] == "code" else record["lang"]
        found: dict[str, Any] = {"bytes": size} | long_statistics(text, lang, self.config.min_bytes)
        for name, allowed in sorted(ranges(*domain, self.config.statistics).items()):
            if (limit := beyond(found[name], allowed)) is not None:
                return Drop(name, record | {"long": found}, found[name], limit)
        return self._by_perplexity(record, found, perplexity_threshold(*domain, self.config.thresholds))

    def _by_perplexity(self, record: Record, found: dict[str, Any], threshold: float) -> Keep | Drop:
        from tokenmill.curation.long_context import mean_difference, window_perplexities

        model, words = _load(self.weights, self.tokenizer)
        ids, window = words.encode(record["text"]), self.config.window
        found |= {"tokens": len(ids)}
        if len(ids) < window:
            return Drop("too_few_tokens", record | {"long": found}, len(ids), window)
        batch_tokens = self.config.execution.batch_tokens
        windows = window_perplexities(model, ids, window, self.config.tail, batch_tokens, self.config.most_windows)
        found |= {
            "windows": len(windows),
            "ppl_far": _round(sum(w.far for w in windows) / len(windows)),
            "ppl_near": _round(sum(w.near for w in windows) / len(windows)),
            "ppl_difference": _round(mean_difference(windows)),
        }
        record = record | {"long": found}
        if found["ppl_difference"] < threshold:
            return Keep(record)
        return Drop("far_context_distracts", record, found["ppl_difference"], threshold)


def _refuse_unknown(config: SelectLongConfig) -> None:
    for domain, changes in config.statistics.items():
        for name in changes:
            if name not in STATISTICS:
                raise ConfigError(
                    f"curation.select_long.statistics.{domain}: no statistic named {name!r}; there are "
                    f"{', '.join(STATISTICS)}"
                )


@cache
def _load(weights: Path, tokenizer: Path) -> tuple[InternLM2ForCausalLM, Tokenizer]:
    """Model and tokenizer, once a process."""
    import os

    import torch

    from tokenmill.model.folder import load_model
    from tokenmill.model.tokenizer import Tokenizer

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_model(weights).to(device).eval(), Tokenizer.load(tokenizer)


def _round(value: float) -> float:
    """Six digits: what a single precision forward pass can mean."""
    return float(f"{value:.6g}")
