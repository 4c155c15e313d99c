"""Evaluation beside lm-eval: the same model, the same token ids, the same items, one thread.

    make peers
    .venv/bin/python benchmarks/evaluation.py all --questions 20

`exam`: multiple choice with five examples, by the lowest mean cross-entropy of the filled templates. `endings`: which line
comes next, by the likelihood of the options alone, which is lm-eval's own multiple choice. The model is
SmolLM2-135M-Instruct in fp32.
"""

import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch
from rows import Table

from tokenmill.evaluation.backend import Loss, Sample
from tokenmill.evaluation.config import EvaluateConfig
from tokenmill.evaluation.in_process import InProcess
from tokenmill.evaluation.questions import next_line
from tokenmill.evaluation.scoring import Predictions, Subject, choice, likelihood
from tokenmill.model import IGNORE
from tokenmill.model.exchange import export_model, import_model
from tokenmill.steps.files import materialise
from tokenmill.store import open_store

table = Table(__doc__ or "", "questions", 20, "questions a row")
ROUNDS = 3
ANSWERS = [f"{letter}" for letter in "ABCD"]


@table.row
def exam(number: int) -> dict[str, Any]:
    """PPL mode: five worked examples of sums, then one with four lettered options."""
    draw = random.Random(0)
    shots = "".join(f"{question} {letter}\n\n" for question, letter in (_sum(draw) for _ in range(5)))
    records = []
    for i in range(number):
        question, right = _sum(draw)
        choices = [f"{question} {letter}" for letter in ANSWERS]
        records.append(
            {"id": f"{i}", "shots": shots, "question": question, "choices": choices, "answer": ANSWERS.index(right)}
        )
    return _beside(records, choice, by_mean=True)


@table.row
def endings(number: int) -> dict[str, Any]:
    """Likelihood of four lines that might come next in a file of the standard library."""
    files = [path for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) if path.stat().st_size > 5_000]
    documents = [
        {"id": path.name, "type": "code", "lang": "en", "text": path.read_text("utf-8", errors="ignore")}
        for path in files[:60]
    ]
    made = next_line(documents, number, 4, seed=1)
    records = [
        record
        | {"shots": "", "choices": [record["question"] + c.removeprefix(record["question"]) for c in record["choices"]]}
        for record in made
    ]
    return _beside(records, likelihood, by_mean=False)


def _sum(draw: random.Random) -> tuple[str, str]:
    """A problem in words with four lettered options, and the right letter."""
    a, b, c = (draw.randrange(3, 60) for _ in range(3))
    options = draw.sample(sorted({a + b - c + x for x in range(-9, 10)} - {a + b - c}), 3)
    place = draw.randrange(4)
    lettered = [*options[:place], a + b - c, *options[place:]]
    lines = "\n".join(f"{letter}. {x}" for letter, x in zip(ANSWERS, lettered, strict=True))
    text = (
        f"Question: A baker has {a} loaves in the morning and bakes {b} more before noon. In the afternoon {c} of them are "
        f"sold to people who walk by the shop. How many loaves are left in the evening?\n{lines}\nAnswer:"
    )
    return text, ANSWERS[place]


def _beside(
    records: list[dict[str, Any]], mode: Callable[[Subject, Sequence[Any]], Predictions], *, by_mean: bool
) -> dict[str, Any]:
    """Our mode and lm-eval's requests in turns; clock and predictions of both."""
    subject, peer = _models()
    told = _Recorded(subject.backend)
    mode(Subject(told, subject.tokenizer, subject.special, subject.config), records[:1])  # warm
    spent: dict[str, list[float]] = {"ours": [], "lm-eval, 8 a batch": [], "lm-eval, 1 a batch": []}
    chosen: dict[str, list[int]] = {}
    for _ in range(ROUNDS):
        told.samples.clear()
        start = time.process_time()
        found = mode(Subject(told, subject.tokenizer, subject.special, subject.config), records)
        spent["ours"].append(time.process_time() - start)
        chosen["ours"] = [one["chosen"] for one in found]
        for size in (8, 1):
            name = f"lm-eval, {size} a batch"
            requests = [_request(sample) for sample in told.samples]
            start = time.process_time()
            answers = peer._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=size)
            spent[name].append(time.process_time() - start)
            losses = iter(
                -total / (len(rest) if by_mean else 1)
                for (total, _), (_, _, rest) in zip(answers, requests, strict=True)
            )
            rows = [[next(losses) for _ in record["choices"]] for record in records]
            chosen[name] = [row.index(min(row)) for row in rows]
    tokens = sum(len(sample.ids) for sample in told.samples)
    seconds = {name: sorted(times)[len(times) // 2] for name, times in spent.items()}
    fastest = min(
        name for name in seconds if name != "ours" and seconds[name] == min(seconds[n] for n in seconds if n != "ours")
    )
    right = sum(c == record["answer"] for c, record in zip(chosen["ours"], records, strict=True))
    return {
        "questions": len(records),
        "tokens of all filled templates": tokens,
        **{f"{name}, s": x for name, x in seconds.items()},
        f"ours over {fastest}": seconds[fastest] / seconds["ours"],
        "each round": [round(b / a, 2) for a, b in zip(spent["ours"], spent[fastest], strict=True)],
        "predictions that differ": sum(a != b for a, b in zip(chosen["ours"], chosen[fastest], strict=True)),
        "right": right,
    }


def _request(sample: Sample) -> tuple[tuple[str, str], list[int], list[int]]:
    """A sample as lm-eval asks it: what stands before, and what is to be judged."""
    ids, labels = list(sample.ids), list(sample.labels)
    start = next(i for i in range(1, len(ids)) if labels[i] != IGNORE)
    return ("", str(ids)), ids[:start], ids[start:]


class _Recorded:
    """Our backend, which keeps what it was asked."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.context = backend, backend.context
        self.samples: list[Sample] = []

    def losses(self, samples: Sequence[Sample]) -> list[Loss]:
        self.samples += samples
        return list(self.backend.losses(samples))


@cache
def _models() -> tuple[Subject, Any]:
    """SmolLM2 in our form, and the very same weights, exported, as lm-eval's HF backend has them."""
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    script = Path(__file__).parents[1] / "scripts" / "smollm2_checkpoint.py"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, script, folder / "smollm2"], check=True, env=environment)
    store = open_store((folder / "store").as_uri())
    imported = import_model(store, folder / "smollm2", licence="Apache-2.0")
    weights, words = (materialise(store, m, folder / m.kind) for m in (imported.weights, imported.tokenizer))
    export_model(weights, words, folder / "exported", dtype=torch.float32)
    config = EvaluateConfig(form="plain")
    ours = InProcess.load(weights, config.execution)
    ours = InProcess(ours.model.float(), config.execution)
    peer = HFLM(pretrained=str(folder / "exported"), device="cpu", dtype="float32", batch_size=1)
    return Subject.of(ours, words, config), peer


if __name__ == "__main__":
    table.main()
