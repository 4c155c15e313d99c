"""A model on the suites: what each mode asks, and what an answer is worth. Where the model runs is the backend's business."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import tokenizers

from tokenmill import answers
from tokenmill.errors import InputError
from tokenmill.evaluation import judging, programs
from tokenmill.evaluation.backend import Answer, Backend, Loss, Sample, Sampling
from tokenmill.evaluation.config import EvaluateConfig
from tokenmill.evaluation.grading import graded
from tokenmill.evaluation.instructions import follows, follows_loosely
from tokenmill.evaluation.metrics import circular, pass_at_k
from tokenmill.model import IGNORE
from tokenmill.model.chat import encode, encode_prompt
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.records import Record


@dataclass(frozen=True)
class Subject:
    """The model under examination, and the words it reads and writes."""

    backend: Backend
    tokenizer: Tokenizer
    special: frozenset[int]
    """Every id that stands for no text."""
    config: EvaluateConfig

    @classmethod
    def of(cls, backend: Backend, tokenizer: Path, config: EvaluateConfig) -> "Subject":
        """Raises InputError where the tokenizer is not the model's."""
        words = Tokenizer.load(tokenizer)
        backend.check(words)
        added = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_added_tokens_decoder()
        return cls(backend, words, frozenset(added), config)

    @property
    def context(self) -> int:
        return self.backend.context

    def text(self, text: str) -> Sample:
        """A document as in pretraining: `<s>` before it, every token counts."""
        ids = [self.tokenizer.bos_id, *self.tokenizer.encode(text)][: self.context]
        return Sample(ids, ids)

    def losses(self, samples: Sequence[Sample]) -> list[Loss]:
        return self.backend.losses(samples)

    def answer(self, prompts: Sequence[Sequence[int]], temperature: float = 0.0) -> list[Answer]:
        """Answers, greedy unless a temperature is given. Of a prompt that leaves no room for one, only the end is read."""
        room = max(1, self.context - self.config.answer_tokens)
        cut = [prompt if len(prompt) <= room else [prompt[0], *prompt[len(prompt) - room + 1 :]] for prompt in prompts]
        stops = self.tokenizer.stop_ids
        return self.backend.answers(cut, Sampling(self.config.answer_tokens, stops, temperature, self.config.seed))

    def read(self, sample: Sample) -> int:
        """Bytes of text whose loss a sample asks for; special tokens are none. Those of two tokenizers compare."""
        scored = [id for id, label in list(zip(*sample, strict=True))[1:] if label != IGNORE]
        pieces = (list(ids) for special, ids in groupby(scored, self.special.__contains__) if not special)
        return sum(len(self.tokenizer.decode(ids).encode()) for ids in pieces)

    def said(self, answer: Answer) -> str:
        """An answer's text, without the token that ended it."""
        return self.tokenizer.decode(answer.tokens[:-1] if answer.stopped else answer.tokens)


Predictions = list[dict[str, Any]]


def perplexity(subject: Subject, records: Sequence[Record]) -> Predictions:
    """The loss of held-out text, or of what the assistant says in held-out conversations."""
    samples: list[Sample] = []
    for record in records:
        if "messages" in record:
            encoded = encode(record["messages"], subject.tokenizer, max_length=subject.context)
            samples.append(Sample(encoded.ids, encoded.labels))
        else:
            samples.append(subject.text(record["text"]))
    return [
        {"id": record["id"], "loss": loss, "tokens": tokens, "bytes": subject.read(sample)}
        for record, sample, (loss, tokens) in zip(records, samples, subject.losses(samples), strict=True)
        if tokens
    ]


def choice(subject: Subject, records: Sequence[Record]) -> Predictions:
    """The option whose filled template has the lowest mean cross-entropy (OpenCompass' PPL mode)."""
    samples = [_filled(subject, record, text) for record in records for text in record["choices"]]
    means = iter([loss / max(tokens, 1) for loss, tokens in subject.losses(samples)])
    predictions = []
    for record in records:
        losses = [next(means) for _ in record["choices"]]
        predictions.append({"id": record["id"], "losses": losses} | _chosen(losses, record))
    return predictions


def likelihood(subject: Subject, records: Sequence[Record]) -> Predictions:
    """The option that is likeliest after the question: the sum of its tokens' log-probabilities, the question's not."""
    samples: list[Sample] = []
    for record in records:
        before = len(subject.text(_shots(record) + record["question"])[0])
        for text in record["choices"]:
            ids, labels = _filled(subject, record, text)
            start = min(before, len(ids) - 1)  # of an option that melted into the question's last token, that token
            samples.append(Sample(ids, [IGNORE] * start + list(labels[start:])))
    losses = iter([loss for loss, _ in subject.losses(samples)])
    predictions = []
    for record in records:
        sums = [next(losses) for _ in record["choices"]]
        predictions.append({"id": record["id"], "losses": sums} | _chosen(sums, record))
    return predictions


def _chosen(losses: Sequence[float], record: Record) -> Record:
    """The option of least loss. A diverged model, whose losses are no numbers, chooses none, which is never right."""
    chosen = losses.index(min(losses)) if all(map(math.isfinite, losses)) else None
    return {"chosen": chosen, "score": float(chosen == record["answer"])}


def _filled(subject: Subject, record: Record, text: str) -> Sample:
    """A filled template after its examples. Cut at the context, all options would look alike: that is refused."""
    if "shots" not in record:
        return subject.text(text)
    ids = [subject.tokenizer.bos_id, *subject.tokenizer.encode(_shots(record) + text)]
    if len(ids) > subject.context:
        raise InputError(
            f"question {record['id']} has {len(ids)} tokens with its examples, the model reads {subject.context}: "
            "lower few_shot.n of the dataset"
        )
    return Sample(ids, ids)


def _shots(record: Record) -> str:
    """A dataset's worked examples."""
    return str(record.get("shots", ""))


def _prompts(subject: Subject, records: Sequence[Record]) -> list[list[int]]:
    """Questions as they are put: as the user's turn, or as text; a dataset's own template in place of ours."""
    asked = [_shots(record) + record["question"] for record in records]
    if subject.config.form == "chat":
        return [encode_prompt([{"role": "user", "content": text}], subject.tokenizer) for text in asked]
    ours = ["{}" if "shots" in record else "Question: {}\nAnswer:" for record in records]
    return [list(subject.text(form.replace("{}", text))[0]) for form, text in zip(ours, asked, strict=True)]


def generated(subject: Subject, records: Sequence[Record]) -> Predictions:
    """The answer that the model writes, compared with the right one, or graded by the judge."""
    grade = judging.judge_of(subject.config) if judging.wanted(records) else _compared
    answers = zip(records, subject.answer(_prompts(subject, records)), strict=True)
    chat = subject.config.form == "chat"
    said = [subject.said(answer) if chat else _own(subject.said(answer), record) for record, answer in answers]
    found = grade(records, said)
    return [{"id": r["id"], "said": text} | one for r, text, one in zip(records, said, found, strict=True)]


def _compared(records: Sequence[Record], said: Sequence[str]) -> Predictions:
    pairs = (graded(text, record) for record, text in zip(records, said, strict=True))
    return [{"found": found, "score": score} for found, score in pairs]


def _own(said: str, record: Record) -> str:
    """Of plain text, what belongs to the answer: a line, or of a dataset all until an empty one."""
    return said.strip().partition("\n\n" if "shots" in record else "\n")[0]


def code(subject: Subject, records: Sequence[Record]) -> Predictions:
    """Programs that the model writes to the end, run with their tests in the sandbox.

    One greedy program a question; of a dataset with `samples` so many drawn ones, of which pass@k is estimated.
    """
    prompts = _prompts(subject, records)
    predictions = []
    for record, said in zip(records, _drawn(subject, records, prompts), strict=True):
        outcomes = [programs.check(record["question"], one, record["test"]) for one in said]
        passed = sum(outcome.passed for outcome in outcomes)
        found = [outcome.reason for outcome in outcomes]
        told = {"said": said[0], "found": found[0]} if len(said) == 1 else {"said": said, "found": found}
        score = pass_at_k(len(said), passed, record.get("k", 1))
        predictions.append({"id": record["id"], **told, "score": score})
    return predictions


def _drawn(subject: Subject, records: Sequence[Record], prompts: Sequence[list[int]]) -> list[list[str]]:
    """What the model writes for each question, as often as the question says; a suite has one temperature."""
    counts = [record.get("samples", 1) for record in records]
    asked = [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]
    temperature = records[0].get("temperature", 0.0) if records else 0.0
    said = iter([subject.said(answer) for answer in subject.answer(asked, temperature)])
    return [[next(said) for _ in range(count)] for count in counts]


def instructed(subject: Subject, records: Sequence[Record]) -> Predictions:
    """Which of each question's instructions the answer follows, strictly and loosely; a question's score is all, strictly."""
    predictions = []
    for record, answer in zip(records, subject.answer(_prompts(subject, records)), strict=True):
        said = subject.said(answer)
        strict, loose = (
            [follow(one["kind"], said, **one["parameters"]) for one in record["instructions"]]
            for follow in (follows, follows_loosely)
        )
        told = {"id": record["id"], "said": said, "strict": strict, "loose": loose}
        predictions.append(told | {"score": float(all(strict))})
    return predictions


def well_formed(subject: Subject, records: Sequence[Record]) -> Predictions:
    """Whether answers are well-formed chat turns, whatever they say."""
    prompts = [encode_prompt(record["messages"], subject.tokenizer) for record in records]
    predictions = []
    for record, answer in zip(records, subject.answer(prompts), strict=True):
        said = subject.said(answer)
        faults = answers.faults(answer.tokens, said, subject.tokenizer.im_end_id, subject.special)
        predictions.append({"id": record["id"], "said": said, "faults": faults, "score": float(not faults)})
    return predictions


def contamination(subject: Subject, records: Sequence[Record]) -> Predictions:
    """Mean loss a token of `question answer` for problems of the train, test and reference split (report §5.4)."""
    losses = subject.losses([subject.text(f"{record['question']} {record['answer']}") for record in records])
    return [
        {"id": record["id"], "split": record["split"], "loss": loss / max(tokens, 1)}
        for record, (loss, tokens) in zip(records, losses, strict=True)
    ]


Mode = Callable[[Subject, Sequence[Record]], Predictions]


def in_turns(mode: Mode) -> Mode:
    """The mode, which asks a question that has `turns` once a turn, and scores it by them all."""

    def scored(subject: Subject, records: Sequence[Record]) -> Predictions:
        asked = [record | turn for record in records for turn in record.get("turns", [{}])]
        found = iter(mode(subject, asked))
        predictions = []
        for record in records:
            if "turns" not in record:
                predictions.append(next(found))
                continue
            turns = [next(found) for _ in record["turns"]]
            told = [{name: value for name, value in turn.items() if name != "id"} for turn in turns]
            score = circular(turn["score"] for turn in turns)
            predictions.append({"id": record["id"], "turns": told, "score": score})
        return predictions

    return scored


MODES: dict[str, Mode] = {
    "perplexity": perplexity,
    "choice": in_turns(choice),
    "likelihood": in_turns(likelihood),
    "generate": in_turns(generated),
    "code": code,
    "instructions": instructed,
    "format": well_formed,
    "contamination": contamination,
}
