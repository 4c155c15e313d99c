"""Evaluation (report §5): questions → predictions → numbers with intervals → a verdict that a person can read.

Every checkpoint is measured by the same code, without a server. What cannot be shown did not happen: a gate whose
evidence is missing does not pass.
"""

STEP_MODULES = (
    "prepare",
    "haystacks",
    "evaluate",
    "current",
    "training_sets",
    "contamination",
    "compare",
    "gate",
    "follow",
    "board",
    "lm_eval_step",
)
