"""The tokenizer: byte-level BPE from a sample of the corpus, or on given ranks with a Chinese block (report §3.2.1)."""

import itertools
from collections.abc import Iterator
from typing import Any

import orjson

from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.model.fertility import Domain, measure
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.model.vocabulary import read_ranks
from tokenmill.pretraining.config import TokenizerConfig
from tokenmill.steps import StepContext, step

FERTILITY = "fertility.json"


@step(
    "pretraining.train_tokenizer", version=2, libraries=("tokenizers",), kinds={"corpus": "corpus", "ranks": "sources"}
)
def train_tokenizer(config: TokenizerConfig, corpus: Manifest, ranks: list[Manifest] | None, ctx: StepContext) -> Draft:
    """Learn a vocabulary and say how finely it cuts each (type, language) of the corpus.

    Without ranks, from equal shares of every domain, so that no language is crowded out. With the ranks of another
    vocabulary, its first `base_tokens` are the base, and the corpus' Chinese teaches the block on top.
    """
    documents = _Documents(ctx, corpus, config.hold_back)
    with ctx.progress(2, "merges, then fertility") as bar:
        tokenizer, counts = _made(config, documents, _ranks(ctx, ranks or []))
        bar.advance()
        found = documents.fertility(tokenizer, config.sample_bytes)
        bar.advance()
    folder = ctx.workdir / "tokenizer"
    tokenizer.save(folder)
    (folder / FERTILITY).write_bytes(orjson.dumps({"domains": found}, option=orjson.OPT_INDENT_2))
    ratios = ("characters_per_token", "bytes_per_token", "tokens_per_word", "fallback_share")
    told = {f"fertility/{row['type']}/{row['lang']}/{name}": row[name] for row in found for name in ratios}
    ctx.metrics({name: value for name, value in told.items() if value is not None})
    return ctx.write_files("tokenizer", folder, counts={"vocabulary": config.vocab_size} | counts)


def _made(config: TokenizerConfig, documents: "_Documents", ranks: list[bytes]) -> tuple[Tokenizer, dict[str, int]]:
    """The tokenizer, and the sizes of its base and its Chinese block where there is one."""
    if not ranks:
        texts = documents.to_learn(documents.domains, config.sample_bytes)
        return Tokenizer.train(texts, vocab_size=config.vocab_size, spares=config.spare_tokens), {}
    chinese = [domain for domain in documents.domains if domain[1].partition("-")[0] == "zh"]
    if config.chinese_tokens and not chinese:
        raise InputError(
            "the corpus has no document in zh to learn the Chinese block from: add some, or set "
            "pretraining.train_tokenizer.chinese_tokens=0"
        )
    tokenizer, block = Tokenizer.build(
        ranks,
        documents.to_learn(chinese, config.sample_bytes),
        vocab_size=config.vocab_size,
        spares=config.spare_tokens,
        base_tokens=config.base_tokens,
        chinese_tokens=config.chinese_tokens,
    )
    return tokenizer, {"base": config.base_tokens, "chinese": block}


def _ranks(ctx: StepContext, registered: list[Manifest]) -> list[bytes]:
    """The tokens of the one rank file that is registered; none where there is none."""
    files = [ctx.files(manifest) / shard.name for manifest in registered for shard in manifest.shards]
    if len(files) > 1:
        raise InputError(f"{len(files)} files are given as ranks: register one (pretraining.register_ranks)")
    return read_ranks(files[0]) if files else []


class _Documents:
    """The corpus by domain: what is learned from, and what is held back from learning to be measured."""

    def __init__(self, ctx: StepContext, corpus: Manifest, hold_back: int) -> None:
        self._ctx, self._corpus, self._hold_back = ctx, corpus, hold_back
        self.domains: dict[Domain, list[str]] = {}
        """Type and language → names of the shards."""
        for shard in corpus.shards:
            folder = dict(part.partition("=")[::2] for part in shard.name.split("/")[:-1])
            self.domains.setdefault((folder.get("type", ""), folder.get("lang", "")), []).append(shard.name)

    def to_learn(self, domains: "list[Domain] | dict[Domain, list[str]]", total: int) -> Iterator[str]:
        """An equal share of each domain, `total` bytes together."""
        for domain in domains:
            yield from (text for held, text in self._sampled(domain, total // len(domains)) if not held)

    def fertility(self, tokenizer: Tokenizer, total: int) -> list[dict[str, Any]]:
        """A row a domain, measured on what is held back of a sample of `total` bytes."""
        return [self._row(domain, tokenizer, total // len(self.domains)) for domain in self.domains]

    def _row(self, domain: Domain, tokenizer: Tokenizer, share: int) -> dict[str, Any]:
        found = measure(tokenizer, (text for held, text in self._sampled(domain, share) if held), domain[1])
        held_back = found.documents > 0
        if (
            not held_back
        ):  # none is, or there is one document: better measured where it was learned from than not at all
            found = measure(tokenizer, (text for _, text in self._sampled(domain, share)), domain[1])
        return {"type": domain[0], "lang": domain[1], "held_back": held_back} | found.to_json()

    def _sampled(self, domain: Domain, share: int) -> Iterator[tuple[bool, str]]:
        """A domain's texts, `share` bytes of them, and whether each is held back from learning."""
        taken = 0
        for number, text in enumerate(self._texts(domain)):
            if taken >= share:
                break
            taken += len(text.encode())
            yield self._hold_back > 0 and number % self._hold_back == 1, text

    def _texts(self, domain: Domain) -> Iterator[str]:
        shards = map(self._corpus.shard, self.domains[domain])
        records = itertools.chain.from_iterable(self._ctx.records(self._corpus, shard) for shard in shards)
        return (record["text"] for record in records)
