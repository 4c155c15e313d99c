"""Checkpoint folders for tests of serving, made in milliseconds without torch, whose answers are known beforehand."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAYERS, DIM, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB, CONTEXT = 2, 64, 2, 2, 32, 128, 512, 128


def reciting_llama(folder: Path, text: str, after: str = "\n") -> Path:
    """A Llama checkpoint (fp32) that, greedily, says `text` and stops whenever its prompt ends with `after`.

    Each token follows from the one before alone: the blocks add nothing (their output projections are zero), and a
    token's row of the output matrix is the embedding of its predecessor. So no character may appear twice.
    """
    if len({*text, after}) != len(text) + 1:
        raise ValueError("no character may appear twice")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _byte_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))

    def write(name: str, value: object) -> None:
        (folder / name).write_text(json.dumps(value))

    names = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}
    write("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, **names})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    end = tokenizer.token_to_id("<|im_end|>")
    sizes = {"hidden_size": DIM, "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    sizes |= {"num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCAB}
    rest = {"max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "hidden_act": "silu"}
    rest |= {"tie_word_embeddings": False, "dtype": "float32", "bos_token_id": 1, "eos_token_id": end}
    write("config.json", {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **sizes, **rest})

    chain = [tokenizer.token_to_id(piece) for piece in tokenizer.encode(after + text).tokens] + [end]
    save_file(_weights(dict(pairwise(chain))), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _byte_tokenizer() -> Tokenizer:
    vocabulary = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary += [f"<unused_{number}>" for number in range(VOCAB - len(vocabulary))]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def _weights(follows: dict[int, int]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return random.standard_normal((rows, columns)).astype(np.float32)

    embedding = matrix(VOCAB, DIM)
    output = np.zeros((VOCAB, DIM), np.float32)
    for token, following in follows.items():
        output[following] = embedding[token]
    weights = {"model.embed_tokens.weight": embedding, "lm_head.weight": output}
    weights["model.norm.weight"] = np.ones(DIM, np.float32)
    for layer in range(LAYERS):
        block = {
            "self_attn.q_proj": matrix(HEADS * HEAD_DIM, DIM),
            "self_attn.k_proj": matrix(KV_HEADS * HEAD_DIM, DIM),
        }
        block |= {"self_attn.v_proj": matrix(KV_HEADS * HEAD_DIM, DIM), "mlp.gate_proj": matrix(FFN, DIM)}
        block |= {"mlp.up_proj": matrix(FFN, DIM), "self_attn.o_proj": np.zeros((DIM, HEADS * HEAD_DIM), np.float32)}
        block |= {"mlp.down_proj": np.zeros((DIM, FFN), np.float32), "input_layernorm": np.ones(DIM, np.float32)}
        block |= {"post_attention_layernorm": np.ones(DIM, np.float32)}
        weights |= {f"model.layers.{layer}.{name}.weight": value for name, value in block.items()}
    return weights
