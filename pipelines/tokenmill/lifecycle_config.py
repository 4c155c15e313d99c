"""The whole config tree: every phase's section, made of the phases' own models."""

from tokenmill.config import Section
from tokenmill.curation.config import CurationConfig
from tokenmill.deployment.config import DeploymentConfig
from tokenmill.enhancement.config import EnhancementConfig
from tokenmill.evaluation.config import EvaluationConfig
from tokenmill.pretraining.config import PretrainingConfig
from tokenmill.rlhf.config import RLHFConfig
from tokenmill.sft.config import SFTConfig


class LifecycleConfig(Section):
    """One field a phase; a preset is a YAML of exactly this shape."""

    curation: CurationConfig = CurationConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    enhancement: EnhancementConfig = EnhancementConfig()
    sft: SFTConfig = SFTConfig()
    rlhf: RLHFConfig = RLHFConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    deployment: DeploymentConfig = DeploymentConfig()
