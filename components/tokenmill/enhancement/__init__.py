"""Domain enhancement: a short, low-rate stage on a decontaminated domain set, from Base (report §3.3.3)."""

STEP_MODULES = ("prepare", "enhance")
