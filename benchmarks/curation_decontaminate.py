"""Decontamination side by side with datatrove's n-gram filter: the same documents, the same questions, one process.

    python benchmarks/curation_decontaminate.py [--megabytes 8] [--repeats 5]

Text: the project pages of the installed Python distributions, in English. Questions: 2,000 of 20 to 40 words, of which
200 are planted, word for word, in documents. Both look for 13-grams. Start-up (loading spaCy, building the index) stands
apart. Times are of the processor. Needs the extra `benchmark`.
"""

import argparse
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from rows import machine

from tokenmill.overlap import OverlapConfig, OverlapIndex

NGRAM, QUESTIONS, PLANTED, DOCUMENT = 13, 2_000, 200, 4_000


def prose(size: int) -> str:
    """English text of at least `size` characters: the project pages of what is installed, again and again."""
    pages = sorted({str(d.metadata.get_payload()) for d in distributions()})
    text = "\n".join(page for page in pages if page.isascii())
    return text * (size // len(text) + 1)


def corpus(size: int) -> tuple[list[str], list[str]]:
    """(documents, questions); every tenth question is planted in a document."""
    draw = random.Random(7)
    text = prose(size)
    documents = [text[start : start + DOCUMENT] for start in range(0, size, DOCUMENT)]
    words = re.findall(r"[a-z]+", text[:400_000].lower())
    questions = [" ".join(draw.choices(words, k=draw.randint(20, 40))) for _ in range(QUESTIONS)]
    for question in questions[:PLANTED]:
        place = draw.randrange(len(documents))
        documents[place] = f"{documents[place]} {question}. The end."
    return documents, questions


def ours(questions: list[str]) -> Callable[[str], Any]:
    index = OverlapIndex(OverlapConfig(ngram_words=NGRAM))
    for number, question in enumerate(questions):
        index.add(f"suite#{number}", question)
    index.build()
    return index.find


def datatrove(questions: list[str], folder: Path) -> Callable[[str], Any]:
    """Its filter, with the index file that its indexer writes (the indexer itself needs lighteval's task tables)."""
    import numpy as np
    from datatrove.data import Document
    from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.text import ngrams, simplify_text

    config = NGramsDecontConfig(n_grams=NGRAM, hash_config=HashConfig(hash_fc="sha1"))  # its default wants xxhash
    step = NGramsDecontFilter(str(folder), config)
    hashes = set()
    for question in questions:
        tokens = step.tokenizer.word_tokenize(simplify_text(question, config.norm_config))
        hashes |= {step.hash_func(" ".join(gram)) for gram in ngrams(tokens, NGRAM)}
    np.array(sorted(hashes), dtype=config.hash_config.np_descr).tofile(folder / "suite.index.hashes")

    def contaminated(text: str) -> Any:
        kept = step.filter(Document(text=text, id="0"))
        return set() if kept is True else {"hit"}

    contaminated("load the index")
    return contaminated


def measured(find: Callable[[str], Any], documents: list[str], repeats: int) -> tuple[float, set[int]]:
    """(median MB/s of processor time, the documents that were found)."""
    size = sum(len(d.encode()) for d in documents) / 1e6
    rates, found = [], set[int]()
    for _ in range(repeats):
        start = time.process_time()
        found = {number for number, document in enumerate(documents) if find(document)}
        rates.append(size / (time.process_time() - start))
    return statistics.median(rates), found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=8)
    parser.add_argument("--peer-megabytes", type=float, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "curation-decontaminate.md")
    asked = parser.parse_args()
    documents, questions = corpus(int(asked.megabytes * 1e6))
    find = ours(questions)
    growth = [(n, measured(find, documents[: max(1, len(documents) // n)], asked.repeats)[0]) for n in (16, 4, 1)]
    few = documents[: int(asked.peer_megabytes * 1e6 / DOCUMENT)]
    mine, mine_found = measured(find, few, asked.repeats)
    with tempfile.TemporaryDirectory() as folder:
        theirs, theirs_found = measured(datatrove(questions, Path(folder)), few, asked.repeats)
    lines = [
        "# Decontamination",
        "",
        f"`python benchmarks/curation_decontaminate.py --megabytes {asked.megabytes:g} --repeats {asked.repeats}`: "
        f"{QUESTIONS:,} questions, {NGRAM}-grams, median of {asked.repeats}, one process, processor time.",
        "",
        f"{machine()}.",
        "",
        "| | MB/s | contaminated documents |",
        "|---|---|---|",
        f"| TokenMill | {mine:.2f} | {len(mine_found)} |",
        f"| datatrove {version('datatrove')} `NGramsDecontFilter` | {theirs:.3f} | {len(theirs_found)} |",
        f"| ratio | {mine / theirs:.0f}× | {len(mine_found & theirs_found)} in both |",
        "",
        "| text, MB | MB/s |",
        "|---|---|",
        *(f"| {asked.megabytes / n:g} | {rate:.2f} |" for n, rate in growth),
        "",
    ]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
