"""The scorer in a folder, of whichever kind it is."""

from pathlib import Path

import orjson

from tokenmill.curation.bert_scorer import BertScorer
from tokenmill.curation.linear_scorer import LinearScorer
from tokenmill.curation.scorer import CARD, Scorer
from tokenmill.errors import InputError


def load_scorer(folder: Path, device: str = "cpu", batch: int = 32) -> Scorer:
    """The scorer that a folder holds.

    Raises:
        InputError: the folder holds none, or one of a kind that this version does not know.
    """
    if not (folder / CARD).is_file():
        raise InputError(f"{folder} holds no scorer: {CARD} is missing; make one with curation.train_scorer")
    kind = orjson.loads((folder / CARD).read_bytes()).get("kind")
    if kind == "linear":
        return LinearScorer.load(folder)
    if kind == "bert":
        return BertScorer.load(folder, device, batch)
    raise InputError(f"{folder / CARD}: unknown kind of scorer {kind!r}; there are linear and bert")
