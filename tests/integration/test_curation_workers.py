"""Retrieval and the order of code in worker processes: the same bytes as in one process."""

import random

import pytest
from pico import Lab

from tokenmill.config import Execution
from tokenmill.curation.config import OrderCodeConfig, RetrieveConfig
from tokenmill.records import JSONL

pytestmark = pytest.mark.integration


def corpus(lab: Lab):
    draw = random.Random(6)
    words = [f"{a}{b}" for a in "bdfgklm" for b in ("an", "el", "io")]
    texts = [" ".join(draw.choices(words, k=draw.randint(5, 40))) for _ in range(60)]

    def record(number: int, kind: str, lang: str, text: str) -> dict:
        known = {"id": f"{kind}{number:03d}", "text": text, "type": kind, "lang": lang, "scores": {}}
        return known | {"source": f"s{number % 3}", "path": f"m{number}.py"}

    shards = {}
    for part in range(3):
        numbers = range(part * 20, part * 20 + 20)
        shards[f"type=web/lang=en/part-{part:05d}{JSONL}"] = [record(n, "web", "en", texts[n]) for n in numbers]
        shards[f"type=code/lang=python/part-{part:05d}{JSONL}"] = [
            record(n, "code", "python", f"import m{(n * 7) % 60}\n") for n in numbers
        ]
    questions = {f"seeds{JSONL}": [{"id": f"q{i}", "question": text} for i, text in enumerate(texts[::9])]}
    return lab.issue("corpus", shards), lab.issue("questions", questions)


@pytest.mark.usefixtures("workers_at_once")
def test_two_workers_make_what_one_makes(tmp_path):
    found = []
    for workers in (1, 2):
        lab = Lab(tmp_path / str(workers))
        documents, questions = corpus(lab)
        execution = Execution(workers=workers)
        retrieved = lab.step(
            "curation.retrieve",
            RetrieveConfig(execution=execution, per_question=3),
            corpus=documents,
            questions=questions,
        )
        ordered = lab.step("curation.order_code", OrderCodeConfig(execution=execution), corpus=documents)["output"]
        found.append([retrieved["corpus"].content, retrieved["report"].content, ordered.content, ordered.counts])
        assert ordered.counts["repositories"] == 3 and ordered.counts["code_files"] == 60
    assert found[0] == found[1]
