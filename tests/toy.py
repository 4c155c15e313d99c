"""A small corpus of made-up sentences, and a store with its tokens: what training tests start from."""

import random
from pathlib import Path

from tokenmill.config import StepConfig
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import configured, effect, find, run_step
from tokenmill.store import ArtifactStore
from tokenmill.tracking import RunRef

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "then",
    "runs",
    "to",
    "the",
    "river",
    "bank",
    "where",
    "silver",
    "fish",
    "swim",
    "in",
    "cold",
    "spring",
    "water",
]


def sentences(seed: int, count: int = 12) -> str:
    rng = random.Random(seed)
    return "\n".join(" ".join(rng.choices(WORDS, k=rng.randint(8, 16))).capitalize() + "." for _ in range(count))


def write_folder(folder: Path, documents: int = 40) -> Path:
    """A folder of text files, as a user would point to."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(documents):
        (folder / f"d{i:03d}.txt").write_text(sentences(i))
    return folder


@effect("toy.corpus", version=1)
def toy_corpus(config: StepConfig, ctx) -> Draft:
    rows = [
        {
            "id": f"d{i:03d}",
            "type": "book",
            "lang": "en",
            "source": "toy",
            "path": f"d{i:03d}.txt",
            "text": sentences(i),
        }
        for i in range(40)
    ]
    return ctx.write_records("corpus", {"type=book/lang=en/part-00000.jsonl.zst": rows})


def run(name: str, store: ArtifactStore, *, overrides: dict | None = None, **inputs: Manifest) -> dict[str, Manifest]:
    """Run a step at preset pico."""
    config = configured(find(name), "pico", overrides or {})
    return run_step(name, config, inputs, store=store, run=RunRef.new("test", "pico"))


def tokens(store: ArtifactStore) -> tuple[Manifest, Manifest]:
    """Token shards and tokenizer of the toy corpus."""
    corpus = run_step("toy.corpus", StepConfig(), {}, store=store, run=RunRef.new("test", "pico"))["output"]
    tokenizer = run("pretraining.train_tokenizer", store, corpus=corpus)["output"]
    return run("pretraining.tokenize", store, corpus=corpus, tokenizer=tokenizer)["output"], tokenizer
