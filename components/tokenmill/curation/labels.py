"""Labels: texts of which a person has said what a scorer is to say of them.

A label is the score that the text should have, in [0, 1]: `toxic` and `porn` 1 = unsafe, `fluency` and `not_ad` 1 = good. A
text that is an advertisement in part has `not_ad` 0. Fluency may be given on its four dimensions; their mean is the label.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, get_args

import orjson
import yaml

from tokenmill.curation.scorer_config import ImportLabelsConfig, ScoreName
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.records import JSONL
from tokenmill.registered import is_file
from tokenmill.steps import StepContext, step

DIMENSIONS = ("consistency", "noise", "information", "grammar")
"""What fluency is judged by (report §3.1.1); each in [0, 1], and 1 is good: no noise is 1."""
FILE = f"labels{JSONL}"


@dataclass(frozen=True, order=True)
class Label:
    """What a person said of a text."""

    score: str
    lang: str
    type: str
    text: str
    value: float

    @property
    def positive(self) -> bool:
        return self.value >= 0.5


@step("curation.import_labels", version=1, kinds={"files": "sources", "earlier": "labels"})
def import_labels(config: ImportLabelsConfig, files: Manifest, earlier: Manifest | None, ctx: StepContext) -> Draft:
    """JSONL files of labels, upon those of earlier rounds; of two labels of one text the later one holds."""
    known = list(labels_of(ctx, earlier)) if earlier else []
    fresh: list[Label] = []
    for shard in sorted(filter(is_file, files.shards), key=lambda s: s.name):
        fresh += parse(ctx.store.blob_path(shard.blob).read_bytes().splitlines(), shard.name)
    if not fresh:
        raise InputError("no row of the label files has a `label`: fill some in, and register the files again")
    merged, changed = merge(known, fresh)
    by_score = Counter(f"{label.score} {label.lang}" for label in merged)
    return ctx.write_records(
        "labels",
        {FILE: map(asdict, merged)},
        counts={"fresh": len(fresh), "changed": len(changed)},
        facts={"labels": dict(sorted(by_score.items())), "changed": [label.text[:120] for label in changed[:20]]},
    )


def labels_of(ctx: StepContext, manifest: Manifest) -> Iterator[Label]:
    """The labels of a `labels` artifact."""
    return (Label(**record) for record in ctx.records(manifest))


def merge(known: Iterable[Label], fresh: Iterable[Label]) -> tuple[list[Label], list[Label]]:
    """All labels, in order, each text once a score; and those that say other than a label before them."""
    latest: dict[tuple[str, str], Label] = {}
    changed = []
    for label in (*known, *fresh):
        before = latest.get((label.score, label.text))
        if before and before.positive != label.positive:
            changed.append(label)
        latest[label.score, label.text] = label
    return sorted(latest.values()), changed


def parse(lines: Iterable[bytes], name: str) -> list[Label]:
    """The labels in lines of JSON; a row whose label is null or missing was left out by its annotator.

    Raises:
        InputError: a row has no text, an unknown score, or a label outside [0, 1].
    """
    labels = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name} line {number}"
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as broken:
            raise InputError(f"{where}: not JSON ({broken})") from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
            raise InputError(f"{where}: a label needs a `text`")
        if row.get("label") is None:
            continue
        if row.get("score") not in get_args(ScoreName):
            raise InputError(f"{where}: `score` is {row.get('score')!r}, not one of {', '.join(get_args(ScoreName))}")
        lang, kind = str(row.get("lang", "en")), str(row.get("type", "web"))
        labels.append(Label(row["score"], lang, kind, row["text"], label_value(row["label"], where)))
    return labels


def label_value(label: Any, where: str) -> float:
    """A label as a number: a boolean, a number in [0, 1], or the four dimensions of fluency."""
    value = composite(label, where) if isinstance(label, dict) else label
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise InputError(f"{where}: label {label!r} is neither true, false, a number from 0 to 1 nor {DIMENSIONS}")
    return float(value)


def composite(dimensions: Mapping[str, float], where: str = "label") -> float:
    """The fluency of a text judged on four dimensions: their mean (the report's formula is unpublished)."""
    if dimensions.keys() != set(DIMENSIONS) or not all(
        isinstance(v, bool | int | float) and 0 <= v <= 1 for v in dimensions.values()
    ):
        raise InputError(f"{where}: fluency needs {', '.join(DIMENSIONS)}, each from 0 to 1; got {dict(dimensions)}")
    return sum(dimensions.values()) / len(DIMENSIONS)


def built_in(score: str) -> list[Label]:
    """The labels that come with TokenMill: short texts written for it, so a start and no more.

    A file has texts by language and label; ordinary texts, which are good in every respect, are shared.
    """
    folder = resources.files("tokenmill.curation") / "labels"
    if not (folder / f"{score}.yaml").is_file():
        return []
    labels = []
    good = 0.0 if score in ("toxic", "porn") else 1.0
    for name, values in ((score, {"high": 1.0, "low": 0.0}), ("ordinary", {"texts": good})):
        listed = yaml.safe_load((folder / f"{name}.yaml").read_text("utf-8"))
        for lang, groups in listed.items():
            labels += [Label(score, lang, "web", text, v) for group, v in values.items() for text in groups[group]]
    return sorted(labels)
