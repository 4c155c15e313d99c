"""Enhancement's configuration. The report publishes the mixture (Table 4) and neither rate, batch nor decontamination rule."""

from typing import Any

from pydantic import Field, model_validator

from tokenmill.config import Section, StepConfig
from tokenmill.training.settings import OptimConfig, StageConfig


class SelectConfig(StepConfig):
    """The domain set: documents of the domain, some of the best of the rest, none that a benchmark asks."""

    types: tuple[str, ...] = Field(
        ("math",), description="document types of the domain (report: STEM, special domains)"
    )
    high_quality_share: float = Field(
        0.26, ge=0, lt=1, description="share of bytes from other documents, the best graded first (report Table 4: 26%)"
    )
    ngram_words: int = Field(
        13, ge=2, description="consecutive words shared with a question that drop a document; not published"
    )
    ngram_characters: int = Field(30, ge=5, description="the same for Chinese, in characters; not published")
    min_words: int = Field(5, ge=2, description="shorter questions are common speech and cannot be called copied")
    max_sharing: int = Field(
        2, ge=1, description="an n-gram that more questions share is their template, and nobody's copy"
    )


class EnhanceConfig(StageConfig):
    """Lower rate and batch than phase 2; context and RoPE base are Base's own."""

    tokens: int = Field(24_400_000_000, description="tokens of the stage (report Table 4: 24.4B)")
    batch_tokens: int = Field(1_048_576, description="tokens an optimizer step; not published, a quarter of phase 2's")
    optim: OptimConfig = Field(
        OptimConfig(lr=3e-5, final_lr_ratio=0.0, warmup_ratio=0.0),
        description="not published; from phase 2's last rate to 0",
    )

    @model_validator(mode="before")
    @classmethod
    def _base_decides(cls, values: Any) -> Any:
        if isinstance(values, dict) and {"rope_theta", "model"} & set(values):
            raise ValueError("model and rope_theta are Base's own and cannot be set here")
        return values


class EnhancementConfig(Section):
    """The section `enhancement` of a preset."""

    select: SelectConfig = SelectConfig()
    train: EnhanceConfig = EnhanceConfig()
