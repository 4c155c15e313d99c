"""COOL RLHF (report §4.2): one conditional reward model for conflicting wishes, rounds of online PPO against hacking.

Round k: RM_k learns from all preferences and the patches of earlier rounds; PPO_k starts from SFT; the probe looks for
tricks that PPO_k found, and writes the patches for RM_k+1.
"""

STEP_MODULES = ("collect_preferences", "train_reward_model", "evaluate_reward_model", "ppo", "dpo", "probe")
