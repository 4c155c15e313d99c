"""Contamination beside a plain Python scan and datatrove's filter: the same text, the same million n-grams, one process.

    python benchmarks/evaluation_contamination.py all|scan|near|sketch [--megabytes 16]

Text: the project pages of the installed Python distributions, in English. Questions: texts of 32 words, drawn word by word
as these pages have them after two words (so that they share many short n-grams with the text); of those, 200 are planted
in it word for word. Times are of the processor, medians of 5 in turns. Needs the extra `benchmark` for datatrove.
"""

import random
import re
import statistics
import tempfile
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from curation_decontaminate import DOCUMENT, NGRAM, datatrove, prose
from rows import Table, seconds

from tokenmill.evaluation.config import ContaminationConfig
from tokenmill.evaluation.search import Search
from tokenmill.overlap import OverlapConfig, OverlapIndex
from tokenmill.overlap.near import NearIndex, NearRule
from tokenmill.overlap.sketch import Sketch

GRAMS, WORDS, PLANTED = 1_000_000, 32, 200
PEER_MEGABYTES = 0.5
table = Table(__doc__.splitlines()[0], "megabytes", 16, "of text")


def made(megabytes: float) -> tuple[list[str], list[str]]:
    """(documents, questions): a million 13-grams of questions, of which `PLANTED` stand in documents."""
    draw, size = random.Random(7), int(megabytes * 1e6)
    text = prose(size)
    documents = [text[start : start + DOCUMENT] for start in range(0, size, DOCUMENT)]
    words = re.findall(r"[a-z]+", text[:2_000_000].lower())
    after: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one, two, three in zip(words, words[1:], words[2:], strict=False):
        after[one, two].append(three)
    starts = sorted(after)
    questions = [_said(draw, after, starts) for _ in range(GRAMS // (WORDS - NGRAM + 1))]
    for question in questions[:PLANTED]:
        place = draw.randrange(len(documents))
        documents[place] = f"{documents[place]} {question}. The end."
    return documents, questions


def _said(draw: random.Random, after: dict[tuple[str, str], list[str]], starts: list[tuple[str, str]]) -> str:
    said = list(draw.choice(starts))
    while len(said) < WORDS:
        if len(said) % 8 == 0:  # else whole sentences of the pages come out
            said += draw.choice(starts)
        said.append(draw.choice(after.get((said[-2], said[-1])) or draw.choice(starts)))
    return " ".join(said[:WORDS])


def verbatim(questions: list[str]) -> OverlapIndex:
    index = OverlapIndex(OverlapConfig(ngram_words=NGRAM, max_sharing=len(questions)))
    for number, question in enumerate(questions):
        index.add(f"suite#{number}", question)
    index.build()
    return index


def plain(questions: list[str]) -> Any:
    """A set of tuples, as a first script has it."""
    word = re.compile(r"\w+")
    grams = {tuple(words[i : i + NGRAM]) for words in map(str.split, questions) for i in range(WORDS - NGRAM + 1)}

    def find(text: str) -> bool:
        words = word.findall(text.lower())
        return any(gram in grams for gram in zip(*(words[i:] for i in range(NGRAM)), strict=False))

    return find


@table.row
def scan(megabytes: float) -> dict[str, Any]:
    """Word for word against a million 13-grams."""
    documents, questions = made(megabytes)
    start = time.process_time()
    index = verbatim(questions)
    built = time.process_time() - start
    few = documents[: int(PEER_MEGABYTES * 1e6 / DOCUMENT)]
    peers: dict[str, Any] = {"plain Python": plain(questions)}
    found: dict[str, set[int]] = {}

    def over(name: str, find: Any, texts: list[str]) -> Any:
        def run() -> None:
            found[name] = {number for number, text in enumerate(texts) if find(text)}

        return run

    with tempfile.TemporaryDirectory() as folder:
        if find_spec("datatrove"):
            peers["datatrove"] = datatrove(questions, Path(folder))
        whole = seconds(over("all", index.find, documents))[0]
        times = seconds(over("TokenMill", index.find, few), *(over(name, find, few) for name, find in peers.items()))
    size, small = _megabytes(documents), _megabytes(few)
    told: dict[str, Any] = {"n-grams": index.size, "seconds to build the index": built}
    told |= {"MB/s": size / whole, "contaminated documents": len(found["all"])}
    for name, spent in zip(("TokenMill", *peers), times, strict=True):
        told |= {f"{small:.1f} MB, {name}: MB/s": small / spent, f"{small:.1f} MB, {name}: found": len(found[name])}
        if name != "TokenMill":
            told[f"ratio to {name}"] = spent / times[0]
    return told


@table.row
def near(megabytes: float) -> dict[str, Any]:
    """Reworded, against 3-grams of as many questions of drawn words, which share none; both passes are what the step does."""
    documents, questions = made(megabytes)
    draw, words = random.Random(8), sorted({word for question in questions for word in question.split()})
    questions = [" ".join(draw.choices(words, k=WORDS)) for _ in questions]
    index = NearIndex(NearRule(), max_sharing=2)
    for number, question in enumerate(questions):
        index.add(f"suite#{number}", question)
    index.build()
    search = _search(questions)
    size = _megabytes(documents)
    spent, both = seconds(lambda: list(map(index.find, documents)), lambda: list(map(search.find, documents)), rounds=3)
    return {
        "questions looked for": len(index.looked_for),
        "MB/s": size / spent,
        "MB/s, with word for word": size / both,
    }


@table.row
def sketch(megabytes: float) -> dict[str, Any]:
    """Made once; then asked for 1,000 questions that nobody leaked, one after the other."""
    documents, questions = made(megabytes)
    start = time.process_time()
    known = Sketch.made(documents)
    spent = time.process_time() - start
    size, per_question, stretches = _megabytes(documents), [], len(list(known.stretches()))
    maybe = 0
    for question in questions[PLANTED : PLANTED + 1000]:
        probes = _search([question]).probes
        start = time.process_time()
        maybe += len(list(known.suspects(probes)))
        per_question.append(1000 * (time.process_time() - start))
    told = {"MB/s to make": size / spent, "bytes a byte of text": known.words.nbytes / 1e6 / size}
    told |= {"milliseconds a question": statistics.median(per_question), "stretches": stretches}
    return told | {"share of stretches to read again": maybe / 1000 / stretches}


def _search(questions: list[str]) -> Search:
    search = Search(ContaminationConfig())
    for number, question in enumerate(questions):
        search.add("generate/suite", {"id": str(number), "question": question, "answer": "yes"})
    search.build()
    return search


def _megabytes(documents: list[str]) -> float:
    return sum(len(document.encode()) for document in documents) / 1e6


if __name__ == "__main__":
    table.main()
