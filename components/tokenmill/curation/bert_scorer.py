"""A fine-tuned BERT as scorer: any `transformers` sequence classifier in a folder of safetensors, read in batches on a GPU.

The report fine-tunes BERTs for toxicity, pornography, advertisement and fluency. `fine_tune_scorer` does so here, and any
such checkpoint serves. Only safetensors are read, nothing is fetched, and no code of a checkpoint runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import orjson

from tokenmill.curation.scorer import CARD, WINDOW, folder_digest, orientation, score_by_windows
from tokenmill.curation.scorer_config import ImportScorerConfig
from tokenmill.errors import ConfigError, InputError, first_line
from tokenmill.manifest import Draft, Manifest, canonical
from tokenmill.registered import is_file
from tokenmill.steps import StepContext, step

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
"""What is taken of a checkpoint beside its safetensors; pickles and code stay behind."""


@step("curation.import_scorer", version=1, kinds={"checkpoint": "sources"})
def import_scorer(config: ImportScorerConfig, checkpoint: Manifest, ctx: StepContext) -> Draft:
    """A registered folder of a `transformers` sequence classifier → a scorer."""
    folder = ctx.workdir / "scorer"
    lay_checkpoint(checkpoint, folder, ctx)
    card = {"kind": "bert", "score": config.score, "label": config.label, "max_tokens": config.max_tokens}
    (folder / CARD).write_bytes(canonical(card))
    facts = {"score": config.score, "higher_is": orientation(config.score)}
    return ctx.write_files("scorer", folder, facts=facts)


def lay_checkpoint(checkpoint: Manifest, folder: Path, ctx: StepContext) -> None:
    """What a scorer needs of a registered checkpoint, into one folder.

    Raises:
        InputError: two of its files have one name, or config or safetensors are missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken = set()
    for shard in filter(is_file, checkpoint.shards):
        name = PurePosixPath(shard.name).name
        if name in FILES or ".safetensors" in name:
            if name in taken:
                raise InputError(f"two files of the checkpoint are named {name}: register one folder only")
            taken.add(name)
            (folder / name).write_bytes(ctx.store.get_blob(shard.blob))
    if "config.json" not in taken or not any(name.endswith(".safetensors") for name in taken):
        raise InputError(
            "the checkpoint needs config.json and *.safetensors (pickled weights are not read); save it with "
            "save_pretrained(safe_serialization=True)"
        )


@dataclass(frozen=True)
class BertScorer:
    """A sequence classifier; model and tokenizer are loaded when the first text is scored."""

    name: str
    folder: Path
    label: int
    max_tokens: int
    digest: str
    device: str = "cpu"
    batch: int = 32
    languages: frozenset[str] = frozenset()

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", batch: int = 32) -> "BertScorer":
        card = orjson.loads((folder / CARD).read_bytes())
        languages = frozenset(card.get("languages", ()))
        return cls(
            card["score"], folder, card["label"], card["max_tokens"], folder_digest(folder), device, batch, languages
        )

    def score(self, texts: Sequence[str]) -> np.ndarray:
        # no window has more characters than the model reads tokens, so that none is cut
        return score_by_windows([self.name], texts, self._predict, min(WINDOW, self.max_tokens - 2))[0]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        tokenizer, model = load_classifier(self.folder, f"scorer {self.name!r}")
        if self.label >= model.config.num_labels:
            raise InputError(
                f"scorer {self.name!r}: label {self.label} of a model with {model.config.num_labels} outputs; "
                "set curation.import_scorer.label"
            )
        return tokenizer, model.to(self.device).eval()

    def _predict(self, pieces: list[str]) -> np.ndarray:
        """(pieces, 1) probabilities; batches are of windows of like length, so little is padding."""
        import torch

        tokenizer, model = self._loaded
        several = model.config.problem_type == "multi_label_classification" or model.config.num_labels == 1
        scores = np.empty((len(pieces), 1))
        by_length = sorted(range(len(pieces)), key=lambda i: (len(pieces[i]), i))
        for start in range(0, len(by_length), self.batch):
            chosen = by_length[start : start + self.batch]
            encoded = tokenizer(
                [pieces[i] for i in chosen],
                truncation=True,
                max_length=self.max_tokens,
                padding=True,
                return_tensors="pt",
            )
            with torch.inference_mode():
                logits = model(**encoded.to(self.device)).logits.float()
            chance = logits.sigmoid() if several else logits.softmax(-1)
            scores[chosen, 0] = chance[:, self.label].cpu()
        return scores


def load_classifier(folder: Path, name: str, **settings: Any) -> tuple[Any, Any]:
    """Tokenizer and sequence classifier of a folder; `settings` change the model's config.

    Raises:
        ConfigError: torch or transformers is not installed.
        InputError: it holds no such checkpoint.
    """
    try:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    except ImportError:
        raise ConfigError("a BERT scorer needs torch and transformers: pip install 'tokenmill[train]'") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, **settings
        )
    except (OSError, ValueError, KeyError) as broken:
        raise InputError(f"{name}: not a checkpoint that transformers reads ({first_line(broken)})") from None
    return tokenizer, model
