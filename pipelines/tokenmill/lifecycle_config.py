"""The whole config tree: every phase's section, made of the phases' own models."""

from tokenmill.config import Section
from tokenmill.curation.config import CurationConfig
from tokenmill.pretraining.config import PretrainingConfig


class LifecycleConfig(Section):
    """One field a phase; a preset is a YAML of exactly this shape."""

    curation: CurationConfig = CurationConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
