"""A model of other making: a small LLaMA of transformers' with a byte-level tokenizer that knows none of our tokens."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

ROWS = 384
"""Of the model: more than the tokenizer's 340 ids, as in models padded for their hardware."""
IDS = 340
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>")
"""As SmolLM2 has them, at the bottom."""
TEXTS = [
    "The old king rode over the hills. What is 7 + 5? 7 + 5 = 12.",
    "语言模型会回答用户的问题。",
    "def f(x): return x",
]


def foreign_tokenizer(folder: Path, size: int = IDS) -> Path:
    """tokenizer.json and a tokenizer_config.json that names a turn's borders as the document's."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(name, special=True) for name in SPECIAL]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.enable_truncation(16)  # as in a folder that was last used to fine-tune
    tokenizer.save(str(folder / "tokenizer.json"))
    end = {"__type": "AddedToken", "content": "<|im_end|>", "special": True}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def foreign_llama(folder: Path, **values: object) -> Path:
    """A whole folder: random fp32 weights with a tied output, RoPE base in rope_parameters, three files and an index."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "vocab_size": ROWS,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 77_000.0},
    }
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**(shape | values))).save_pretrained(folder, max_shard_size="80KB")
    return foreign_tokenizer(folder)
