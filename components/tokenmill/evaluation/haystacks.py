"""Needle in a haystack as questions (report §5.2.6): a suite a length, a question a depth.

They are asked, graded and judged like any other questions; a gate names `generate/needle-<length>` among its limits, and a
verdict that has such suites shows the map. Their numbers are drawn for each place, so that none can be known by heart.
"""

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tokenmill.errors import InputError
from tokenmill.evaluation.config import NeedlesConfig
from tokenmill.evaluation.measured import Measured
from tokenmill.evaluation.needle import insert
from tokenmill.evaluation.questions import shard_name
from tokenmill.manifest import Draft, Manifest
from tokenmill.records import Record
from tokenmill.steps import StepContext, step

if TYPE_CHECKING:
    from tokenmill.model.tokenizer import Tokenizer

SUITE = "generate/needle-"


@step(
    "evaluation.needles",
    version=1,
    libraries=("tokenizers",),
    kinds={"haystack": "corpus", "tokenizer": "tokenizer"},
)
def needles(config: NeedlesConfig, haystack: Manifest, tokenizer: Manifest, ctx: StepContext) -> Draft:
    """Long texts from the beginning of a corpus, each with a sentence hidden in it that is asked for at its end."""
    from tokenmill.model.tokenizer import Tokenizer

    words = Tokenizer.load(ctx.files(tokenizer))
    hay: list[int] = []
    for record in ctx.records(haystack):
        hay += words.encode(record["text"] + "\n\n")
        if len(hay) >= max(config.lengths):
            break
    if len(hay) < max(config.lengths):
        raise InputError(
            f"{haystack.digest[:12]} is a haystack of {len(hay):,} tokens, evaluation.needles.lengths asks for "
            f"{max(config.lengths):,}: give more text, or shorter lengths"
        )
    suites = {length: list(asked(config, words, hay, length)) for length in config.lengths}
    return ctx.write_records(
        "questions",
        {shard_name("generate", f"needle-{length}"): rows for length, rows in suites.items()},
        counts={"questions": sum(map(len, suites.values()))},
    )


def asked(config: NeedlesConfig, words: "Tokenizer", hay: Sequence[int], length: int) -> Iterator[Record]:
    """The questions of one length: a text of `length` tokens with its needle, then what is asked."""
    for depth in config.depths:
        number = str(random.Random(f"{config.seed}:{length}:{depth}").randrange(10_000, 100_000))
        needle = config.needle.replace("{number}", number)
        text = words.decode(insert(hay, words.encode(f"\n{needle}\n"), length, depth))
        yield {
            "id": f"{depth:g}",
            "question": f"{text}\n\n{config.question}",
            "answer": [needle, number],
            "extraction": "none",
            "metric": "needle",
        }


def needle_map(measured: Measured) -> dict[str, dict[str, float]]:
    """Length → depth in percent → score, 0 to 100, of the suites that are about needles."""
    return {
        suite.removeprefix(SUITE): {row: 100 * one["score"] for row, one in found.items()}
        for suite, found in sorted(measured.predictions.items(), key=lambda item: (len(item[0]), item[0]))
        if suite.startswith(SUITE)
    }
