"""Pretraining: tokenizer, token shards, the "4K" stage, long documents, the "32K" stage (report §3.2–3.3)."""

STEP_MODULES = ("register_ranks", "train_tokenizer", "tokenize", "pretrain")
