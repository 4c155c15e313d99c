"""Datasets are data: a folder with JSONL and one YAML that says how its records are asked, read and judged."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, model_validator

from tokenmill import answers
from tokenmill.config import Section
from tokenmill.errors import InputError
from tokenmill.evaluation.grading import Metric
from tokenmill.evaluation.questions import Mode

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
    circular: bool = Field(
        False,
        description="ask once for each option, turned round by one more; right only if right in every turn (CircularEval)",
    )
    answer: str = Field(
        "{answer}", description="the right answer: of a choice its text, letter or index from 0; a list: any of them"
    )
    answer_extraction: Literal["none", "hash", "boxed"] = Field("none", description="what of it counts")
    shot: str | None = Field(None, description="what follows the template in an example [` ` and the right answer]")
    few_shot: FewShot | None = Field(None, description="null: none")
    baseline: str = Field(
        "", description="judge: another model's answer, to be compared with; empty: each answer is rated"
    )
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
        if self.circular and not (self.choices and self.inferencer in ("ppl", "likelihood", "generate")):
            raise ValueError("circular turns options round: say in `choices` where they are, and let one be chosen")
        if (self.inferencer == "deltas") != bool(self.splits):
            raise ValueError(
                "deltas compares `records` with other splits: say in `splits` where they are, and only there"
            )
        if self.metric == "judge" and (self.inferencer != "generate" or self.choices):
            raise ValueError("a judge grades what is written: inferencer generate, and no choices")
        if self.baseline and self.metric != "judge":
            raise ValueError("baseline is what a judge compares an answer with: say `metric: judge`")
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
