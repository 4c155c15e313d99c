"""Labels and a BERT → a scorer: fine-tuned as BERT's authors do (Devlin et al. 2019, A.3), on a GPU or not.

The report fine-tunes one for each of its scores and publishes neither base model nor settings. One output, the score's
probability; soft labels (0.5 of a fluency) are learned as they are, and both kinds of label weigh the same, as in
`train_scorer`.
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenmill.curation.bert_scorer import FILES, BertScorer, lay_checkpoint, load_classifier
from tokenmill.curation.labels import Label
from tokenmill.curation.scorer import CARD
from tokenmill.curation.scorer_config import FineTuneScorerConfig
from tokenmill.curation.train_scorer import balance, known_labels, write_scorer
from tokenmill.manifest import Draft, Manifest, canonical
from tokenmill.steps import StepContext, step


@step(
    "curation.fine_tune_scorer",
    version=2,
    reproducible="same_platform",
    libraries=("torch", "transformers"),
    kinds={"checkpoint": "sources", "labels": "labels"},
)
def fine_tune_scorer(
    config: FineTuneScorerConfig, checkpoint: Manifest, labels: Manifest | None, ctx: StepContext
) -> Draft:
    """Fine-tune a registered BERT to labels; its facts hold accuracy and AUC on the held-out ones, all and by language."""
    trained, heldout = known_labels(config, labels, ctx)
    base, folder = ctx.workdir / "base", ctx.workdir / "scorer"
    lay_checkpoint(checkpoint, base, ctx)
    fit(config, base, folder, trained, ctx)
    languages = sorted({label.lang for label in trained})
    card = {"kind": "bert", "score": config.score, "label": 0, "max_tokens": config.max_tokens, "languages": languages}
    (folder / CARD).write_bytes(canonical(card))
    scorer = BertScorer.load(folder, config.execution.device, config.micro_batch)
    return write_scorer(folder, scorer, trained, heldout, ctx)


def fit(config: FineTuneScorerConfig, base: Path, folder: Path, labels: Sequence[Label], ctx: StepContext) -> None:
    """Train a classifier with a new output layer on the labels; write it and its tokenizer into `folder`."""
    import torch

    device = config.execution.device
    torch.manual_seed(config.seed)
    tokenizer, model = load_classifier(base, ctx.name, num_labels=1, ignore_mismatched_sizes=True)
    model.to(device).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    steps = list(batches(config, len(labels)))
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: schedule(n, len(steps), config.warmup_share))
    value = torch.tensor([label.value for label in labels], device=device)
    weight = torch.tensor(balance(value.cpu().numpy() >= 0.5) * len(labels), dtype=torch.float32, device=device)
    with ctx.progress(len(steps), "steps") as bar:
        for number, batch in enumerate(steps):
            ctx.check()
            total = 0.0
            for start in range(0, len(batch), config.micro_batch):
                some = batch[start : start + config.micro_batch]
                logits = model(**_read(tokenizer, [labels[i].text for i in some], config.max_tokens).to(device)).logits
                losses = torch.nn.functional.binary_cross_entropy_with_logits(
                    logits[:, 0].float(), value[some], weight[some], reduction="sum"
                )
                (losses / len(batch)).backward()
                total += losses.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            ctx.metric("fine_tuning/loss", total / len(batch), number)
            bar.advance()
    _save(model, tokenizer, folder)


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """A model's parameters for AdamW: biases and LayerNorm's scales, all of one axis, do not decay (Devlin et al.'s code)."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def batches(config: FineTuneScorerConfig, n: int) -> Iterator[list[int]]:
    """Which labels an optimizer step learns from; every epoch has each once, in an order of its own."""
    for epoch in range(config.epochs):
        order = list(range(n))
        random.Random(f"{config.seed}/{epoch}").shuffle(order)
        yield from (order[start : start + config.batch] for start in range(0, n, config.batch))


def schedule(number: int, steps: int, warmup_share: float) -> float:
    """The share of the learning rate at a step, from 0: up in a straight line, and down to nothing."""
    warmup = warmup_share * steps
    return min((number + 1) / (warmup + 1), (steps - number) / max(steps - warmup, 1))


def _read(tokenizer: Any, texts: list[str], max_tokens: int) -> Any:
    return tokenizer(texts, truncation=True, max_length=max_tokens, padding=True, return_tensors="pt")


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Config, tokenizer and safetensors, and nothing else that `transformers` leaves."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        if path.name not in FILES and ".safetensors" not in path.name:
            path.unlink()
