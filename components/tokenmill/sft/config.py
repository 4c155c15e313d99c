"""Options of supervised fine-tuning. Defaults are the report's (§4.1), or XTuner's 7B preset's where it is silent."""

from pydantic import Field

from tokenmill.config import Section, StepConfig
from tokenmill.overlap import OverlapConfig
from tokenmill.sft.formats import Format
from tokenmill.training.settings import ChoosingConfig, LoRAConfig, OptimConfig


class PrepareConfig(StepConfig):
    """What the conversations are made of. The report's 10M instances are not open; these are a laptop's."""

    dialogues: int = Field(900, ge=0, description="conversations taken from dialogues in the sources' qa/*.json")
    arithmetic: int = Field(600, ge=0, description="generated questions with verifiable answers")
    requests: int = Field(700, ge=0, description="generated requests, answered directly, with care, or both")
    one_sided: float = Field(0.5, ge=0, le=1, description="of requests: answered in the fitting style only")
    max_characters: int = Field(180, ge=40, description="of a dialogue's messages together: up to 96 nano tokens")
    max_turns: int = Field(4, ge=2, description="messages a dialogue at most")
    formats: dict[str, Format] = Field(
        default_factory=dict,
        description="source of conversations (type: chat) → messages, alpaca or sharegpt; others are told by their fields",
    )
    max_rejected: float = Field(
        0.01, ge=0, le=1, description="share of unusable records of such sources above which the step stops"
    )
    heldout_share: float = Field(
        0.05, gt=0, lt=0.5, description="share of first questions held out, by their hash; not published"
    )
    seed: int = Field(1024, description="of what is generated and of which dialogues are taken")


class DecontaminateConfig(OverlapConfig):
    """What counts as a copy of a question that evaluation asks."""


class RepositoriesConfig(StepConfig):
    """Repositories as long conversations (report §4.3)."""

    max_tokens: int = Field(
        32_768,
        ge=64,
        description="tokens of a sample at most; a file that would exceed them begins the next (report §4.3)",
    )
    sources: tuple[str, ...] = Field(
        (),
        description="sources of code to take; none: all. The report's are its core libraries and those that use them",
    )


class SFTTrainConfig(ChoosingConfig):
    """One epoch over all conversations (report §4.1). The best weights are those of the smallest held-out loss."""

    context: int = Field(32_768, ge=16, description="tokens a pack; a longer conversation is cut on the right (XTuner)")
    pretraining_share: float = Field(
        0.1, ge=0, lt=1, description="share of tokens that are pieces of pretraining data (§4.3; share not published)"
    )
    pretraining_types: tuple[str, ...] = Field(
        ("book", "code"), description="document types of those pieces (§4.3: books and repositories)"
    )
    lora: LoRAConfig = LoRAConfig()
    packs_per_step: int = Field(64, ge=1, description="packs an optimizer step, over all ranks (XTuner: 2.1M tokens)")
    optim: OptimConfig = Field(
        OptimConfig(lr=4e-5, final_lr_ratio=0.15, warmup_ratio=0.025, weight_decay=0.01),
        description="AdamW at 4e-5 (report §4.1); schedule, decay and clip are XTuner's",
    )


class SFTConfig(Section):
    """The section `sft` of a preset."""

    prepare: PrepareConfig = PrepareConfig()
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    repositories: RepositoriesConfig = RepositoriesConfig()
    train: SFTTrainConfig = SFTTrainConfig()
