"""What an InternLM2 is: its dimensions, under the keys that Hugging Face and vLLM read (report Table 3)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from tokenmill.errors import ConfigError

MODEL_TYPE = "internlm2"
Recompute = Literal["none", "selective", "full"]
"""What a layer's backward pass computes again (see `tokenmill.model.recompute`)."""
Kernel = Literal["auto", "flash", "varlen", "sdpa"]
"""Of attention (see `tokenmill.model.attention`)."""


@dataclass(frozen=True)
class InternLM2Config:
    """Dimensions of one model, named as in its config.json. The RoPE base is that of the first phase, 50,000."""

    vocab_size: int = 92_544
    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 128
    intermediate_size: int = 14_336
    rms_norm_eps: float = 1e-5
    rope_theta: float = 50_000.0
    rope_scaling: dict[str, Any] | None = None
    max_position_embeddings: int = 32_768
    bias: bool = False
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 2
    reward_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads "
                f"({self.num_key_value_heads}): every KV head serves the same number of query heads"
            )
        if self.hidden_size != self.num_attention_heads * self.head_dim:
            raise ConfigError(
                f"hidden_size ({self.hidden_size}) must be num_attention_heads × head_dim "
                f"({self.num_attention_heads} × {self.head_dim}): other InternLM2 readers derive head_dim from it"
            )
        if self.bias or self.tie_word_embeddings:
            raise ConfigError("InternLM2 has no biases and an untied output: set bias and tie_word_embeddings to false")
        scaling = self.rope_scaling or {"type": "dynamic", "factor": 1.0}
        if scaling.get("type") != "dynamic" or "factor" not in scaling:
            raise ConfigError(f"rope_scaling {scaling} is not known: use null or type 'dynamic' with a factor")

    @classmethod
    def preset(cls, name: str) -> InternLM2Config:
        """The dimensions of a released model, or of one small enough for a test (pico) or a laptop (nano)."""
        if name not in PRESETS:
            raise ConfigError(f"unknown model preset '{name}'. Known: {', '.join(PRESETS)}")
        return PRESETS[name]

    @property
    def queries_per_kv(self) -> int:
        return self.num_attention_heads // self.num_key_value_heads

    def with_rope_theta(self, rope_theta: float, max_position_embeddings: int | None = None) -> InternLM2Config:
        """The same model with another RoPE base, as from the 4K to the 32K phase (report §3.3.2: 50,000 to 1M)."""
        return replace(
            self, rope_theta=rope_theta, max_position_embeddings=max_position_embeddings or self.max_position_embeddings
        )

    def rope_theta_at(self, length: int) -> float:
        """The RoPE base for a sequence of `length` tokens: the configured one, unless dynamic NTK stretches it."""
        if not self.rope_scaling:
            return self.rope_theta
        factor = float(self.rope_scaling["factor"])
        return dynamic_ntk_base(length, self.rope_theta, factor, self.max_position_embeddings, self.head_dim)

    def parameter_count(self) -> int:
        """Exact number of weights: embedding, output, and per layer Wqkv, Wo, three FFN matrices, two norms."""
        d, f, kv, group = self.hidden_size, self.intermediate_size, self.num_key_value_heads, self.queries_per_kv + 2
        layer = d * kv * group * self.head_dim + d * d + 3 * d * f + 2 * d
        return 2 * self.vocab_size * d + d + self.num_hidden_layers * layer

    def to_json(self, architecture: str = "InternLM2ForCausalLM", dtype: str = "float32") -> str:
        """The text of a config.json that Hugging Face and vLLM understand."""
        head = {"architectures": [architecture], "model_type": MODEL_TYPE, "hidden_act": "silu", "torch_dtype": dtype}
        return json.dumps(head | asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | Path) -> InternLM2Config:
        """Read a config.json, ours or a released one: other readers' keys are ignored, head_dim may be missing."""
        values = json.loads(text.read_text("utf-8") if isinstance(text, Path) else text)
        if values.get("model_type", MODEL_TYPE) != MODEL_TYPE:
            raise ConfigError(f"config.json is for model_type '{values['model_type']}', not '{MODEL_TYPE}'")
        values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})


def dynamic_ntk_base(length: int, base: float, factor: float, trained_length: int, head_dim: int) -> float:
    """RoPE base beyond the trained length: base·((f·L/L_max) − (f−1))^(d/(d−2)) (released modelling code)."""
    if length <= trained_length:
        return base
    return base * ((factor * length / trained_length) - (factor - 1)) ** (head_dim / (head_dim - 2))


PRESETS = {
    "pico": InternLM2Config(
        vocab_size=512,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=128,
        max_position_embeddings=128,
    ),
    "nano": InternLM2Config(
        vocab_size=4096,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=448,
        max_position_embeddings=2048,
    ),
    "internlm2-1.8b": InternLM2Config(
        hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, intermediate_size=8192
    ),
    "internlm2-7b": InternLM2Config(),
    "internlm2-20b": InternLM2Config(
        hidden_size=6144, num_hidden_layers=48, num_attention_heads=48, intermediate_size=16_384
    ),
}
