"""Iterative annotation (report §3.1.2): train → predict → people check the confident extremes → refine → validate.

    score → export_samples (extremes) → people fill in `label` → import_labels (upon the earlier ones) → train_scorer
          → validate_scorer (every earlier label still right?) → again; the report did three rounds

and once the scorer holds: export_samples (borderline) → labels → choose_thresholds → `screen` and `grade` take them.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml

from tokenmill.curation.grade import scores as rule_scores
from tokenmill.curation.labels import Label, labels_of
from tokenmill.curation.load_scorer import load_scorer
from tokenmill.curation.scorer import Scorer, orientation
from tokenmill.curation.scorer_config import (
    ChooseThresholdsConfig,
    ExportSamplesConfig,
    HandOutConfig,
    ValidateScorerConfig,
)
from tokenmill.curation.thresholds import FILE, choose_threshold
from tokenmill.curation.train_scorer import quality
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest, sha256
from tokenmill.steps import StepContext, effect, step
from tokenmill.steps.files import materialise

Record = dict[str, Any]


@step("curation.export_samples", version=1, kinds={"corpus": "corpus"})
def export_samples(config: ExportSamplesConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """samples.jsonl: documents for people to label, one a line; fill in `label`, and import the file."""
    samples = choose_samples(ctx.records(corpus), config)
    if not samples:
        raise InputError(
            f"no document of the corpus has a score {config.score!r} in the range asked for: run curation.score first, "
            "or widen curation.export_samples.low and .high"
        )
    folder = ctx.workdir / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [sample_row(r, config) for r in samples]
    (folder / "samples.jsonl").write_bytes(b"".join(orjson.dumps(x, option=orjson.OPT_APPEND_NEWLINE) for x in lines))
    return ctx.write_files("samples", folder, counts={"samples": len(lines)})


@effect("curation.hand_out", version=1, kinds={"artifact": ("samples", "report", "thresholds")})
def hand_out(config: HandOutConfig, artifact: Manifest, ctx: StepContext) -> Draft:
    """Write the samples, a validation or thresholds into a folder, for people to work on."""
    folder = Path(config.to).expanduser()
    for shard in artifact.shards:
        target = folder / shard.name
        if target.exists() and target.read_bytes() != ctx.store.get_blob(shard.blob):
            raise InputError(f"{target} exists and differs (labels may be in it): move it, or give another folder")
    materialise(ctx.store, artifact, folder)
    return Draft(kind=artifact.kind, shards=artifact.shards, counts=artifact.counts)


def choose_samples(records: Iterable[Record], config: ExportSamplesConfig) -> list[Record]:
    """Of every language and type up to `samples` documents, half of them on each side.

    Extremes are drawn at random (by a hash of the id) among the confident ones, for the very highest scores would show one
    kind of page again and again; borderline ones are the nearest to the threshold.
    """
    sides: defaultdict[tuple[str, str, bool], list[tuple[float, str, Record]]] = defaultdict(list)
    half = max(config.samples // 2, 1)
    for record in records:
        value = record["scores"].get(config.score)
        if value is None or (config.select == "extremes" and config.low < value < config.high):
            continue
        middle = config.around if config.select == "borderline" else (config.low + config.high) / 2
        key = sha256(record["id"].encode())
        distance = abs(value - middle) if config.select == "borderline" else 0.0
        side = sides[record["lang"], record["type"], value >= middle]
        side.append((distance, key, record))
        if len(side) > 4 * half:  # never more in memory than a few times what is wanted
            side.sort(key=lambda item: item[:2])
            del side[half:]
    chosen = []
    for group in sorted(sides):
        chosen += [r for _, _, r in sorted(sides[group], key=lambda item: item[:2])[:half]]
    return chosen


def sample_row(record: Record, config: ExportSamplesConfig) -> Record:
    """What an annotator sees; `label` is theirs to fill in."""
    return {
        "id": record["id"],
        "lang": record["lang"],
        "type": record["type"],
        "score": config.score,
        "predicted": record["scores"][config.score],
        "label": None,
        "text": record["text"][: config.max_characters],
    }


@step(
    "curation.validate_scorer",
    version=2,
    reproducible="same_platform",
    libraries=("numpy", "numba"),
    kinds={"scorer": "scorer", "labels": "labels"},
)
def validate_scorer(config: ValidateScorerConfig, scorer: Manifest, labels: Manifest, ctx: StepContext) -> Draft:
    """validation.json: which earlier labels the scorer gets wrong, and the languages in which it agrees with people.

    Raises:
        InputError: more than `max_conflicts` of the labels come out wrong.
    """
    loaded = load_scorer(ctx.files(scorer))
    mine = [label for label in labels_of(ctx, labels) if label.score == loaded.name]
    if not mine:
        raise InputError(f"the labels have none of {loaded.name!r}: import some with curation.import_labels")
    predicted = loaded.score([label.text for label in mine])
    wrong = conflicts(mine, predicted)
    if len(wrong) > config.max_conflicts * len(mine):
        raise InputError(
            f"{len(wrong)} of {len(mine)} labels of {loaded.name!r} come out wrong (curation.validate_scorer."
            f"max_conflicts: {config.max_conflicts:.0%}); first: {wrong[0]['text'][:80]!r}. Refine the guideline or relabel"
        )
    languages = agreement(mine, predicted)
    validated = sorted(
        lang
        for lang, found in languages.items()
        if found["labels"] >= config.min_labels and found["auc"] is not None and found["auc"] >= config.min_agreement
    )
    report = {
        "score": loaded.name,
        "scorer": loaded.digest,
        "languages": languages,
        "validated_languages": validated,
        "conflicts": wrong,
    }
    return ctx.write_json("report", "validation.json", report, counts={"labels": len(mine), "conflicts": len(wrong)})


def conflicts(labels: Sequence[Label], predicted: np.ndarray) -> list[Record]:
    """The labels that the predictions are on the other side of one half from, the most confident mistake first."""
    wrong = [
        asdict(label) | {"predicted": round(float(value), 4)}
        for label, value in zip(labels, predicted, strict=True)
        if label.positive != (value >= 0.5)
    ]
    return sorted(wrong, key=lambda row: (-abs(row["predicted"] - 0.5), row["text"]))


def agreement(labels: Sequence[Label], predicted: np.ndarray) -> dict[str, Record]:
    """Language → labels, accuracy and AUC of the predictions in it."""
    langs = np.array([label.lang for label in labels])
    positive = np.array([label.positive for label in labels])
    return {lang: quality(predicted[langs == lang], positive[langs == lang]) for lang in sorted(set(langs.tolist()))}


@step(
    "curation.choose_thresholds",
    version=2,
    reproducible="same_platform",
    libraries=("numpy", "numba"),
    kinds={"labels": "labels", "scorers": "scorer"},
)
def choose_thresholds(
    config: ChooseThresholdsConfig, labels: Manifest, scorers: list[Manifest] | None, ctx: StepContext
) -> Draft:
    """thresholds.yaml: for each language, type and score the threshold of the wanted precision on the labels.

    Without a scorer of fluency or not_ad, the rules of `grade` are measured.
    """
    loaded = {one.name: one for one in (load_scorer(ctx.files(manifest)) for manifest in scorers or ())}
    chosen, facts = thresholds(list(labels_of(ctx, labels)), loaded, config)
    if not chosen:
        raise InputError(
            f"no language and type has {config.min_labels} labels (curation.choose_thresholds.min_labels): {facts}"
        )
    folder = ctx.workdir / "thresholds"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(yaml.safe_dump(chosen, sort_keys=True))
    return ctx.write_files("thresholds", folder, counts={"thresholds": len(facts)}, facts={"chosen_on": facts})


def thresholds(
    labels: Sequence[Label], scorers: dict[str, Scorer], config: ChooseThresholdsConfig
) -> tuple[dict[str, dict[str, float]], dict[str, Record]]:
    """Set → score → threshold; and `set score` → labels, share of positives, and the share decided as positive."""
    groups: defaultdict[tuple[str, str], list[Label]] = defaultdict(list)
    for label in labels:
        groups[f"{label.lang}_{label.type}", label.score].append(label)
    chosen: defaultdict[str, dict[str, float]] = defaultdict(dict)
    facts = {}
    for (name, score), group in sorted(groups.items()):
        fact: Record = {"labels": len(group), "higher_is": orientation(score)}
        facts[f"{name} {score}"] = fact
        if len(group) < config.min_labels:
            fact["chosen"] = False
            continue
        predicted = predict(group, score, scorers)
        positive = np.array([label.positive for label in group])
        try:
            threshold = choose_threshold(predicted, positive, config.precision)
        except InputError as imprecise:
            raise InputError(f"{name}, {score}: {imprecise}") from None
        chosen[name][score] = threshold
        above = predicted > threshold
        fact |= {"chosen": True, "above": int(above.sum()), "right_above": int((above & positive).sum())}
    return dict(chosen), facts


def predict(labels: Sequence[Label], score: str, scorers: dict[str, Scorer]) -> np.ndarray:
    """The scores of labelled texts: by the scorer, or by the rules where there is none."""
    if score in scorers:
        return scorers[score].score([label.text for label in labels])
    if score in ("fluency", "not_ad"):
        return np.array([rule_scores(label.text, label.lang)[score] for label in labels])
    raise InputError(f"no scorer of {score!r} is given, and no rule knows it: make one with curation.train_scorer")
