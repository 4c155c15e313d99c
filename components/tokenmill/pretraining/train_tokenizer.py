"""The tokenizer: byte-level BPE learned from a sample of the corpus (report §3.2.1)."""

from collections.abc import Iterator

from tokenmill.manifest import Draft, Manifest
from tokenmill.pretraining.config import TokenizerConfig
from tokenmill.records import Record
from tokenmill.steps import StepContext, step


@step("pretraining.train_tokenizer", version=1, libraries=("tokenizers",), kinds={"corpus": "corpus"})
def train_tokenizer(config: TokenizerConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """Learn the merges from equal shares of every (type, language) partition, so that no language is crowded out."""
    from tokenmill.model.tokenizer import Tokenizer

    with ctx.progress(1, "merges") as bar:
        texts = _sample(ctx, corpus, config.sample_bytes)
        tokenizer = Tokenizer.train(texts, vocab_size=config.vocab_size, spares=config.spare_tokens)
        bar.advance()
    folder = ctx.workdir / "tokenizer"
    tokenizer.save(folder)
    return ctx.write_files("tokenizer", folder, counts={"vocabulary": config.vocab_size})


def _sample(ctx: StepContext, corpus: Manifest, total: int) -> Iterator[str]:
    partitions: dict[str, list[str]] = {}
    for shard in corpus.shards:
        partitions.setdefault(shard.name.rpartition("/")[0], []).append(shard.name)
    share = total // max(1, len(partitions))
    for names in partitions.values():
        taken = 0
        for record in _records(ctx, corpus, names):
            if taken >= share:
                break
            taken += len(record["text"].encode())
            yield record["text"]


def _records(ctx: StepContext, corpus: Manifest, names: list[str]) -> Iterator[Record]:
    for name in names:
        yield from ctx.records(corpus, corpus.shard(name))
