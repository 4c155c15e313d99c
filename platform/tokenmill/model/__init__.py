"""InternLM2 in one room: architecture, tokenizer, ChatML, file layouts, generation (report §2.2, §3.2).

Everything takes packed one-dimensional token streams with `cu_seqlens`: the same code trains, scores and generates, on
CPU and GPU.
"""

IGNORE = -100
"""The label of a token on which nothing is learned: prompts, what others say, the last token of a sample."""
