"""Options of scorers: what they learn from, what they score, and how people check them and choose thresholds."""

from typing import Literal

from pydantic import Field

from tokenmill.config import Execution, StepConfig
from tokenmill.curation.source_config import DocumentType

ScoreName = Literal["toxic", "porn", "fluency", "not_ad", "code_quality"]


class ImportLabelsConfig(StepConfig):
    pass


class LearnedScoreConfig(StepConfig):
    """What is learned from which labels, whatever learns it."""

    score: ScoreName = Field("toxic", description="the score that is learned")
    built_in_labels: bool = Field(True, description="use labels/<score>.yaml beside the labels that are given")
    heldout_share: float = Field(0.2, gt=0, lt=1, description="share of the labels that measures and never trains")


class TrainScorerConfig(LearnedScoreConfig):
    features: int = Field(
        18, ge=10, le=24, description="binary logarithm of the number of hashed features (ours; 18 = 1 MiB of weights)"
    )
    weight_decay: float = Field(1e-4, gt=0, description="L2 penalty on the weights (ours)")
    max_iterations: int = Field(500, ge=1, description="accelerated gradient steps at most (ours)")


class ImportScorerConfig(StepConfig):
    score: ScoreName = Field("toxic", description="the score that the checkpoint's model gives")
    label: int = Field(1, ge=0, description="index of the output class whose probability is the score")
    max_tokens: int = Field(512, ge=8, description="tokens a window at most; BERT reads 512")


class FineTuneExecution(Execution):
    device: str = Field("cpu", description="torch device, as cuda:0")


class FineTuneScorerConfig(LearnedScoreConfig):
    """Defaults are BERT's own for fine-tuning (Devlin et al. 2019, A.3); the report's are not published."""

    max_tokens: int = Field(512, ge=8, description="tokens of a text at most; BERT reads 512")
    epochs: int = Field(3, ge=1, description="times that every label is learned from (BERT: 2 to 4)")
    batch: int = Field(16, ge=1, description="labels an optimizer step (BERT: 16 or 32)")
    micro_batch: int = Field(
        16, ge=1, description="labels in memory at once, at most a batch (ours); dropout is drawn for these together"
    )
    learning_rate: float = Field(2e-5, gt=0, description="of AdamW at its highest (BERT: 2e-5 to 5e-5)")
    warmup_share: float = Field(
        0.1, ge=0, lt=1, description="share of the steps in which the rate rises; then it falls to 0"
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, of matrices only (BERT)")
    max_gradient: float = Field(1.0, gt=0, description="length that a gradient is cut to (BERT)")
    seed: int = Field(1, ge=0, description="of the new output layer, dropout and the order of labels")
    execution: FineTuneExecution = FineTuneExecution()


class ScoreExecution(Execution):
    device: str = Field("cpu", description="torch device of BERT scorers, as cuda:0; linear ones need none")
    batch: int = Field(32, ge=1, description="windows that a BERT scorer reads at once")


class ScoreConfig(StepConfig):
    scores: tuple[ScoreName, ...] = Field(
        ("toxic", "porn"),
        description="scores for which a pipeline that is given no scorer trains one, on the labels that come with "
        "TokenMill; none: documents are judged by lists and rules alone",
    )
    types: tuple[DocumentType, ...] = Field(("web", "qa"), description="types that are scored")
    execution: ScoreExecution = ScoreExecution()


class CollectScorersConfig(StepConfig):
    pass


class ExportSamplesConfig(StepConfig):
    score: ScoreName = Field("fluency", description="the score whose documents are to be labelled")
    select: Literal["extremes", "borderline"] = Field(
        "extremes",
        description="extremes: the confident high and low ones, to check a scorer (§3.1.2); borderline: those around a "
        "threshold, to choose it",
    )
    low: float = Field(0.1, ge=0, le=1, description="a score up to here is confidently low (ours)")
    high: float = Field(0.9, ge=0, le=1, description="a score from here on is confidently high (ours)")
    around: float = Field(0.5, ge=0, le=1, description="the threshold that borderline samples lie around")
    samples: int = Field(200, ge=1, description="samples a language and type, half of them on each side")
    max_characters: int = Field(2000, ge=100, description="of a document's text in a sample")


class HandOutConfig(StepConfig):
    to: str = Field("annotation", description="folder that the files are written into; one with other content is left")


class ValidateScorerConfig(StepConfig):
    max_conflicts: float = Field(
        1.0, ge=0, le=1, description="share of earlier labels that may come out wrong before the step stops"
    )
    min_agreement: float = Field(
        0.8, ge=0, le=1, description="AUC from which a language counts as validated (ours; the report gives none)"
    )
    min_labels: int = Field(20, ge=2, description="labels of a language below which it is never validated (ours)")


class ChooseThresholdsConfig(StepConfig):
    precision: float = Field(
        0.9,
        gt=0,
        le=1,
        description="share of rightly decided ones among the kept (fluency, not_ad) or the dropped (toxic, porn)",
    )
    min_labels: int = Field(20, ge=1, description="labels of a language and type below which no threshold is chosen")
