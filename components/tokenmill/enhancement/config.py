"""Enhancement's configuration. The report publishes the mixture (Table 4) and neither rate, batch nor decontamination rule."""

from typing import Any, Self

from pydantic import Field, model_validator

from tokenmill.config import Section
from tokenmill.overlap import OverlapConfig, OverlapRule
from tokenmill.training.settings import LoRAConfig, OptimConfig, StageConfig


class PrepareConfig(OverlapConfig):
    """The domain set: documents of the domain, some of the best of the rest, none that a benchmark asks."""

    types: tuple[str, ...] = Field(
        ("math",),
        description="document types of the domain (report: STEM, special domains); none: everything in the corpus",
    )
    high_quality_share: float = Field(
        0.26, ge=0, lt=1, description="share of bytes from other documents, the best graded first (report Table 4: 26%)"
    )

    shares: dict[str, float] | None = Field(
        None,
        description="share of bytes a category, as {stem: 0.65, special: 0.09, high_quality: 0.26} (report Table 4), in the "
        "place of types and high_quality_share. A document's category is the one that curation.retrieve gave it, `domain` "
        "for the types above, else `high_quality`; the scarcest category decides how much there is of all",
    )

    @model_validator(mode="after")
    def _shares_are_a_whole(self) -> Self:
        if self.shares and (abs(sum(self.shares.values()) - 1) > 0.01 or min(self.shares.values()) <= 0):
            raise ValueError(f"shares must be above 0 and add up to 1, not to {sum(self.shares.values()):g}")
        return self


class EnhanceConfig(StageConfig):
    """Lower rate and batch than phase 2; model and RoPE base are Base's own."""

    tokens: int = Field(24_400_000_000, description="tokens of the stage (report Table 4: 24.4B)")
    batch_tokens: int = Field(1_048_576, description="tokens an optimizer step; not published, a quarter of phase 2's")
    optim: OptimConfig = Field(
        OptimConfig(lr=3e-5, final_lr_ratio=0.0, warmup_ratio=0.0),
        description="not published; from phase 2's last rate to 0",
    )

    lora: LoRAConfig = LoRAConfig()
    rehearsal_share: float = Field(
        0.0, ge=0, lt=1, description="share of the tokens that pretraining's tokens are drawn from again; not published"
    )
    decontamination: OverlapRule = Field(
        OverlapRule(),
        description="the weakest rule by which the data may have been searched for evaluation's questions",
    )

    @model_validator(mode="before")
    @classmethod
    def _base_decides(cls, values: Any) -> Any:
        if isinstance(values, dict) and {"rope_theta", "model"} & set(values):
            raise ValueError("model and rope_theta are Base's own and cannot be set here")
        return values


class EnhancementConfig(Section):
    """The section `enhancement` of a preset."""

    prepare: PrepareConfig = PrepareConfig()
    enhance: EnhanceConfig = EnhanceConfig()
