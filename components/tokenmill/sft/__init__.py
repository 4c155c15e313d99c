"""Supervised fine-tuning (report §4.1): sources → conversations → one epoch of ChatML, loss on the assistant alone."""

STEP_MODULES = ("prepare", "decontaminate", "card", "repositories", "train")
