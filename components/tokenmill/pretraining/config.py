"""Pretraining's configuration. Defaults are the report's where it speaks; "not published" where it is silent."""

from pydantic import Field

from tokenmill.config import Section, StepConfig
from tokenmill.training.settings import StageConfig


class RegisterRanksConfig(StepConfig):
    """A vocabulary of other making that the tokenizer is built on; none by default."""

    file: str = Field(
        "", description="a rank file in tiktoken's format (`base64 rank` a line), e.g. cl100k_base.tiktoken"
    )
    licence: str = Field("", description="of the file, best as an SPDX identifier; required with it")
    origin: str = Field("", description="who made it, or where it was found; required with it")


class TokenizerConfig(StepConfig):
    """Byte-level BPE with cl100k's pre-tokeniser and spare tokens on top (report §3.2.1)."""

    vocab_size: int = Field(92_544, description="tokens, a multiple of 128 (released models: 128 × 723)")
    spare_tokens: int = Field(147, description="ids on top that host the ChatML, tool and reward tokens")
    sample_bytes: int = Field(50_000_000, description="bytes of text the merges are learned from; not published")
    hold_back: int = Field(
        20,
        ge=0,
        description="of so many documents of a domain the second is not learned from: fertility is measured on it. "
        "0: it is measured on what was learned from",
    )
    base_tokens: int = Field(
        60_004, ge=256, description="tokens taken of registered ranks, the first of them (report §3.2.1)"
    )
    chinese_tokens: int = Field(
        32_397, ge=0, description="pieces of the Chinese block on top of ranks, at most: it takes the ids that are left"
    )


class TokenizeConfig(StepConfig):
    """Corpus → token shards."""

    heldout_share: float = Field(
        0.02, gt=0, lt=0.5, description="share of documents kept for validation; not published"
    )


class LongStageConfig(StageConfig):
    """Phase 2, "32K": longer context, RoPE base 1M, half of the tokens from short documents (report §3.3)."""

    context: int = Field(32_768, description="tokens a sequence (report §3.3)")
    short_context: int = Field(4096, description="half of the tokens come from documents up to this length")
    rope_theta: float = Field(1_000_000.0, description="RoPE base (report §3.3)")
    tokens: int = Field(200_000_000_000, description="about 9% of the steps (report §3.3)")
    fresh_optimizer: bool = Field(
        False, description="begin with new moments instead of the short stage's; which of both is not published"
    )


class PretrainConfig(Section):
    """The schedule of pretraining: the stages by name, in one definition of the run."""

    short: StageConfig = StageConfig()
    long: LongStageConfig = LongStageConfig()


class PretrainingConfig(Section):
    """The section `pretraining` of a preset."""

    register_ranks: RegisterRanksConfig = RegisterRanksConfig()
    train_tokenizer: TokenizerConfig = TokenizerConfig()
    tokenize: TokenizeConfig = TokenizeConfig()
    pretrain: PretrainConfig = PretrainConfig()
