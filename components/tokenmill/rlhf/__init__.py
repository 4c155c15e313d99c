"""COOL RLHF (report §4.2): one conditional reward model for conflicting wishes, rounds of online PPO against hacking.

Round k: RM_k learns from all preferences, what people have labelled so far and the patches of the round before; PPO_k starts
from SFT; the probe looks for tricks that PPO_k found, and writes the patches for RM_k+1; the stop rule decides whether its
policy is handed on, and whether there is a round k+1.
"""

STEP_MODULES = (
    "read_preferences",
    "collect_preferences",
    "snapshot_annotations",
    "train_reward_model",
    "evaluate_reward_model",
    "ppo",
    "dpo",
    "probe",
    "decide",
)
