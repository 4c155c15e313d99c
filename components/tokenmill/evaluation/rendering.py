"""A dataset's records as a model is asked them: one shard of a `questions` artifact, in the form of `questions.py`.

There is one way to ask, whoever made the questions. What follows from the YAML is done here, once; a model sees only text.
"""

import gzip
import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import zstandard

from tokenmill import answers
from tokenmill.errors import InputError
from tokenmill.evaluation.dataset import FILE, INFERENCERS, Dataset
from tokenmill.evaluation.grading import CORPUS
from tokenmill.evaluation.instructions import CHECKS
from tokenmill.evaluation.metrics import rotations
from tokenmill.evaluation.questions import shard_name
from tokenmill.records import Record

_FIELD = re.compile(r"\{(\w+)\}")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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
    for place, record in read(folder / dataset.records):
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
        for number, (place, record) in enumerate(read(path))
    ]
    if not found:
        raise InputError(f"{path} holds no problem")
    return found


def version(dataset: Dataset, folder: Path) -> str:
    """sha256 over the records that it reads, uncompressed and canonical: the same however they are stored."""
    sha = hashlib.sha256()
    shots = [dataset.few_shot.records] if dataset.few_shot else []
    for name in [dataset.records, *shots, *(dataset.splits[split] for split in sorted(dataset.splits))]:
        for _, record in read(folder / name):
            sha.update(orjson.dumps(record, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))
        sha.update(b"\n")  # a question that became an example is another version
    return sha.hexdigest()


def _shots(dataset: Dataset, folder: Path) -> str | None:
    """The worked examples; None where a text stands alone, which no example can precede."""
    if dataset.inferencer == "ppl_only":
        return None
    if not (few := dataset.few_shot):
        return ""
    examples = list(read(folder / few.records))
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
    """One question in the form of its mode; of a circular one also its `turns`, the first of which it is."""
    options = _options(dataset, record, place)
    if not dataset.circular:
        return _put(dataset, record, options, place)
    right = _right(dataset, record, options, place)
    turns = [
        _put(dataset, record, _lettered(texts), place, at)
        for texts, at in rotations([option["choice"] for option in options], right)
    ]
    return turns[0] | {"turns": turns}


def _put(
    dataset: Dataset, record: Mapping[str, Any], options: list[dict[str, str]], place: str, right: int | None = None
) -> Record:
    """One question with its options in this order; `right` is the place of the right one where the record does not say it."""
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
    if dataset.metric == "judge":
        baseline = {"baseline": _fill(dataset.baseline, fields, place)} if dataset.baseline else {}
        return {"question": question, "metric": dataset.metric} | baseline
    if dataset.inferencer == "generate":
        counts = [_counted(dataset, one, place) for one in _answers(dataset, record, options, place, right)]
        asked = {"question": question, "answer": counts[0] if len(counts) == 1 else counts}
        language = {"language": dataset.language} if dataset.metric in CORPUS else {}
        return asked | {"extraction": dataset.extraction, "metric": dataset.metric} | language
    choices = [question + _fill(dataset.option, fields | option, place) for option in options]
    return {"question": question, "choices": choices, "answer": _right(dataset, record, options, place, right)}


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


def _answers(
    dataset: Dataset, record: Mapping[str, Any], options: list[dict[str, str]], place: str, right: int | None
) -> list[str]:
    """The right answers of a question that is answered in writing: a letter, a text, or any of several."""
    if options:
        return [options[_right(dataset, record, options, place, right)]["letter"]]
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
    return _lettered(texts)


def _lettered(texts: Iterable[Any]) -> list[dict[str, str]]:
    return [{"choice": str(text), "letter": letter} for text, letter in zip(texts, _LETTERS, strict=False)]


def _fields(record: Mapping[str, Any], options: list[dict[str, str]]) -> dict[str, Any]:
    lettered = "\n".join(f"{option['letter']}. {option['choice']}" for option in options)
    return {**record} | ({"lettered": lettered} if options else {})


def _right(
    dataset: Dataset, record: Mapping[str, Any], options: list[dict[str, str]], place: str, known: int | None = None
) -> int:
    """The place of the right option, if it is not known already: told by its text, its letter or its index."""
    if known is not None:
        return known
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


def read(path: Path) -> Iterator[tuple[str, Record]]:
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
