"""Datasets are data: a folder with JSONL and one YAML that says how its records are asked, read and judged.

A dataset becomes one shard of a `questions` artifact, in the form of `questions.py`: there is one way to ask, whoever made
the questions. What follows from the YAML is done here, once; a model sees only text.
"""

import gzip
import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import orjson
import yaml
import zstandard
from pydantic import Field, model_validator

from tokenmill import answers
from tokenmill.config import Section
from tokenmill.errors import InputError
from tokenmill.evaluation.grading import CORPUS, Metric
from tokenmill.evaluation.instructions import CHECKS
from tokenmill.evaluation.questions import Mode, shard_name
from tokenmill.records import Record

FILE = "dataset.yaml"
SHIPPED = Path(__file__).parent / "datasets"
"""How the report's benchmarks are asked; their data are their owners'."""
INFERENCERS: dict[str, Mode] = {
    "ppl": "choice", "likelihood": "likelihood", "generate": "generate", "code": "code",
    "instructions": "instructions", "ppl_only": "perplexity", "deltas": "contamination",
}  # fmt: skip
"""ppl: the option whose filled template has the lowest mean cross-entropy. likelihood: the option that is likeliest after the
question. generate: an answer that is written. code: one that is run. instructions: one that follows what a program can check.
ppl_only: the loss alone. deltas: the losses of three splits, for Δ1 and Δ2."""
_FIELD = re.compile(r"\{(\w+)\}")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class FewShot(Section):
    """Worked examples before each question."""

    records: str = Field("train.jsonl", description="file of the examples, beside the YAML")
    n: int = Field(ge=1, description="examples before a question")
    seed: int | None = Field(None, description="of the draw, the same examples for all questions; null: the first n")
    separator: str = Field("\n\n", description="after each example")


class Dataset(Section):
    """One YAML.

    Templates have a record's fields as `{field}`; with `choices` also all of them as `{lettered}`, and `option` one of them as
    `{choice}` and its `{letter}`.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="of the suite: `<mode>/<name>`")
    description: str = Field(description="what it asks, one line")
    language: str = Field(pattern=r"^[a-z]{2,3}$", description="of the questions, ISO 639")
    licence: str = Field(description="of the data; it follows them through lineage")
    origin: str = Field("", description="where they are from, for people")
    group: Literal["coding", "reasoning", "qa", "exam", "language", "instructions"] = Field(
        description="capability group (report Figure 12, and two of ours)"
    )
    records: str = Field("test.jsonl", description="file of the questions, beside the YAML; .gz and .zst are read too")
    digest: str | None = Field(None, description="version: sha256 of all records it reads; others are refused")
    inferencer: Literal["ppl", "likelihood", "generate", "code", "instructions", "ppl_only", "deltas"] = Field(
        description="how it is asked"
    )
    splits: dict[Literal["train", "reference"], str] = Field(
        {}, description="deltas: file of the training split, and of problems like the test that no model has seen"
    )
    template: str = Field(description="what stands before the answer")
    option: str = Field("{choice}", description="what stands for an option, after the template")
    choices: str | tuple[str, ...] | None = Field(None, description="field with the options, or a field each")
    answer: str = Field(
        "{answer}", description="the right answer: of a choice its text, letter or index from 0; a list: any of them"
    )
    answer_extraction: Literal["none", "hash", "boxed"] = Field("none", description="what of it counts")
    shot: str | None = Field(None, description="what follows the template in an example [` ` and the right answer]")
    few_shot: FewShot | None = Field(None, description="null: none")
    extraction: answers.Extraction = Field("final", description="what of a written answer counts")
    metric: Metric = Field("same", description="how it is compared with the right one")
    samples: int = Field(1, ge=1, description="code: programs drawn a question; 1: one, greedy")
    k: int = Field(1, ge=1, description="code: of pass@k, at most `samples`")
    temperature: float = Field(0.8, gt=0, description="of drawn programs (Chen et al. 2021, for pass@100)")
    test: str = Field("{test}", description="code: the program that checks it, run after what the model wrote")
    reference: dict[str, float] = Field(default_factory=dict, description="scores that the report gives, by model")
    notes: str = Field("", description="what to know when numbers are compared")

    @model_validator(mode="after")
    def _whole(self) -> "Dataset":
        if self.inferencer in ("ppl", "likelihood") and not self.choices:
            raise ValueError(f"{self.inferencer} chooses among options: say in `choices` where they are")
        if (self.inferencer == "deltas") != bool(self.splits):
            raise ValueError(
                "deltas compares `records` with other splits: say in `splits` where they are, and only there"
            )
        if self.k > self.samples:
            raise ValueError(f"pass@{self.k} wants {self.k} samples at least: raise `samples`")
        return self


def load(folder: Path, shipped: str | None = None) -> Dataset:
    """The YAML of a folder, or one that TokenMill ships for its files. InputError, a line a problem."""
    path = SHIPPED / f"{shipped}.yaml" if shipped else folder / FILE
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        raise InputError(
            f"there is no {path.name} in {path.parent}" + (f"; TokenMill ships {known}" if shipped else "")
        )
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as wrong:
        raise InputError(f"{path}: no YAML: {str(wrong).splitlines()[-1].strip()}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: wants options with values")
    return Dataset.at(path.name, values)


def rendered(dataset: Dataset, folder: Path) -> tuple[str, list[Record]]:
    """The dataset's shard of a `questions` artifact: its name, and its records as a model is asked them."""
    if dataset.digest and dataset.digest != (found := version(dataset, folder)):
        raise InputError(
            f"{dataset.name}: the records are version {found[:12]}, not {dataset.digest[:12]} as {FILE} says"
        )
    if dataset.splits:
        files = [("test", dataset.records), *dataset.splits.items()]
        records = [row | {"split": s} for s, name in files for row in _of_split(dataset, folder / name, s)]
    else:
        records = _records(dataset, folder)
    if len({record["id"] for record in records}) < len(records):
        raise InputError(f"{folder / dataset.records}: ids repeat")
    return shard_name(INFERENCERS[dataset.inferencer], dataset.name), records


def _records(dataset: Dataset, folder: Path) -> list[Record]:
    shots = _shots(dataset, folder)
    records: list[Record] = []
    for place, record in _read(folder / dataset.records):
        made = _asked(dataset, record, place)
        records.append(
            {"id": str(record.get("id", f"{len(records):05d}")), **made}
            | ({"shots": shots} if shots is not None else {})
        )
    if not records:
        raise InputError(f"{folder / dataset.records} holds no question")
    return records


def _of_split(dataset: Dataset, path: Path, split: str) -> list[Record]:
    """Problems with their answers, as the loss reads them; ids may be those of another split."""
    found = [
        {
            "id": f"{split}/{record.get('id', f'{number:05d}')}",
            "question": _fill(dataset.template, record, place),
            "answer": _fill(dataset.answer, record, place),
        }
        for number, (place, record) in enumerate(_read(path))
    ]
    if not found:
        raise InputError(f"{path} holds no problem")
    return found


def version(dataset: Dataset, folder: Path) -> str:
    """sha256 over the records that it reads, uncompressed and canonical: the same however they are stored."""
    sha = hashlib.sha256()
    shots = [dataset.few_shot.records] if dataset.few_shot else []
    for name in [dataset.records, *shots, *(dataset.splits[split] for split in sorted(dataset.splits))]:
        for _, record in _read(folder / name):
            sha.update(orjson.dumps(record, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))
        sha.update(b"\n")  # a question that became an example is another version
    return sha.hexdigest()


def _shots(dataset: Dataset, folder: Path) -> str | None:
    """The worked examples; None where a text stands alone, which no example can precede."""
    if dataset.inferencer == "ppl_only":
        return None
    if not (few := dataset.few_shot):
        return ""
    examples = list(_read(folder / few.records))
    if len(examples) < few.n:
        raise InputError(f"{folder / few.records} holds {len(examples)} examples; few_shot.n is {few.n}")
    drawn = examples[: few.n] if few.seed is None else random.Random(few.seed).sample(examples, few.n)
    return "".join(_example(dataset, record, place) + few.separator for place, record in drawn)


def _example(dataset: Dataset, record: Mapping[str, Any], place: str) -> str:
    options = _options(dataset, record, place)
    if several := _several(dataset, record):
        record = {**record, _FIELD.fullmatch(dataset.answer)[1]: several[0]}  # type: ignore[index] # it is one field
    fields = _fields(record, options)
    if options and dataset.inferencer in ("ppl", "likelihood"):
        right = options[_right(dataset, record, options, place)]
        return _fill(dataset.template, fields, place) + _fill(dataset.option, fields | right, place)
    shot = dataset.shot if dataset.shot is not None else f" {dataset.answer}"
    return _fill(dataset.template, fields, place) + _fill(shot, fields, place)


def _asked(dataset: Dataset, record: Mapping[str, Any], place: str) -> Record:
    """One question in the form of its mode."""
    options = _options(dataset, record, place)
    fields = _fields(record, options)
    question = _fill(dataset.template, fields, place)
    if dataset.inferencer == "ppl_only":
        return {"text": question}
    if dataset.inferencer == "code":
        drawn = {"samples": dataset.samples, "k": dataset.k, "temperature": dataset.temperature}
        return {"question": question, "test": _fill(dataset.test, fields, place)} | (
            drawn if dataset.samples > 1 else {}
        )
    if dataset.inferencer == "instructions":
        return {"question": question, "instructions": _instructions(record, place)}
    if dataset.inferencer == "generate":
        counts = [_counted(dataset, right, place) for right in _answers(dataset, record, options, place)]
        asked = {"question": question, "answer": counts[0] if len(counts) == 1 else counts}
        language = {"language": dataset.language} if dataset.metric in CORPUS else {}
        return asked | {"extraction": dataset.extraction, "metric": dataset.metric} | language
    choices = [question + _fill(dataset.option, fields | option, place) for option in options]
    return {"question": question, "choices": choices, "answer": _right(dataset, record, options, place)}


def _instructions(record: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """What a record in IFEval's layout wants: kinds, and each one's parameters beside it."""
    kinds, given = record.get("instruction_id_list"), record.get("kwargs")
    if not (isinstance(kinds, list) and isinstance(given, list) and kinds and len(kinds) == len(given)):
        raise InputError(f"{place}: wants instruction_id_list and kwargs, two lists of one length")
    if unknown := [kind for kind in kinds if kind not in CHECKS]:
        raise InputError(f"{place}: no instruction of kind {unknown[0]!r} is known")
    return [
        {"kind": kind, "parameters": {name: x for name, x in parameters.items() if x is not None}}
        for kind, parameters in zip(kinds, given, strict=True)
    ]


def _answers(dataset: Dataset, record: Mapping[str, Any], options: list[dict[str, str]], place: str) -> list[str]:
    """The right answers of a question that is answered in writing: a letter, a text, or any of several."""
    if options:
        return [options[_right(dataset, record, options, place)]["letter"]]
    if several := _several(dataset, record):
        return [str(one) for one in several]
    return [_fill(dataset.answer, record, place)]


def _several(dataset: Dataset, record: Mapping[str, Any]) -> list[Any]:
    """The answers of a record whose answer is a list."""
    one = _FIELD.fullmatch(dataset.answer)
    found = record.get(one[1]) if one else None
    return found if isinstance(found, list) else []


def _counted(dataset: Dataset, right: str, place: str) -> str:
    """What of a right answer counts."""
    if (counts := answers.EXTRACTIONS[dataset.answer_extraction](right)) is None:
        raise InputError(
            f"{place}: the right answer has nothing that answer_extraction={dataset.answer_extraction} finds"
        )
    return counts


def _options(dataset: Dataset, record: Mapping[str, Any], place: str) -> list[dict[str, str]]:
    """Each option's `choice` and `letter`."""
    if dataset.choices is None:
        return []
    try:
        one = isinstance(dataset.choices, str)
        texts = record[dataset.choices] if one else [record[name] for name in dataset.choices]  # type: ignore[index]
    except KeyError as missing:
        raise InputError(f"{place}: no field {missing} with options") from None
    if not isinstance(texts, list) or not 2 <= len(texts) <= len(_LETTERS):
        raise InputError(f"{place}: options must be a list of 2 to {len(_LETTERS)}")
    return [{"choice": str(text), "letter": letter} for text, letter in zip(texts, _LETTERS, strict=False)]


def _fields(record: Mapping[str, Any], options: list[dict[str, str]]) -> dict[str, Any]:
    lettered = "\n".join(f"{option['letter']}. {option['choice']}" for option in options)
    return {**record} | ({"lettered": lettered} if options else {})


def _right(dataset: Dataset, record: Mapping[str, Any], options: list[dict[str, str]], place: str) -> int:
    """The place of the right option, told by its text, its letter or its index."""
    said = _fill(dataset.answer, record, place).strip()
    for way in ("choice", "letter"):
        found = [i for i, option in enumerate(options) if option[way].strip() == said]
        if len(found) == 1:
            return found[0]
    if said.isdecimal() and int(said) < len(options):
        return int(said)
    raise InputError(f"{place}: the right answer {said!r} is none of {len(options)} options by text, letter or index")


def _fill(template: str, fields: Mapping[str, Any], place: str) -> str:
    """`{field}` by its value, once: a value with braces stays as it is."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in fields:
            raise InputError(f"{place}: no field {found[1]!r}, which a template of {FILE} names")
        return str(fields[found[1]])

    return _FIELD.sub(value, template)


def _read(path: Path) -> Iterator[tuple[str, Record]]:
    """Records, each with where it stands."""
    if not path.is_file():
        raise InputError(f"there is no {path}; expected are one JSON object a line")
    openers: dict[str, Any] = {".gz": gzip.open, ".zst": zstandard.open}
    with openers.get(path.suffix, open)(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError as wrong:
                raise InputError(f"{path} line {number}: no JSON ({wrong})") from None
            if not isinstance(record, dict):
                raise InputError(f"{path} line {number}: no object")
            yield f"{path} line {number}", record
