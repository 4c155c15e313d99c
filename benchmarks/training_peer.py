"""The peers of training: Hugging Face's Llama of the same shape, and its Trainer."""

import os
import tempfile
import time
from typing import Any, Literal

from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from tokenmill.model.config import InternLM2Config
from tokenmill.training.data import PackedBatches
from tokenmill.training.settings import OptimConfig


class _Clock(TrainerCallback):
    """Processor time at which the first step began and the last one ended."""

    def __init__(self) -> None:
        self.begun, self.ended = 0.0, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.begun = self.begun or time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended = time.process_time()


def llama(shape: InternLM2Config) -> LlamaConfig:
    """Hugging Face's Llama of the same shape, with PyTorch's scaled dot product."""
    return LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        rms_norm_eps=shape.rms_norm_eps,
        max_position_embeddings=shape.max_position_embeddings,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )


Layout = Literal["whole", "padded", "flattened"]


def collator(laid: Layout) -> Any:
    """What makes a batch of documents: one length, padded to the longest, or end to end with positions that restart."""
    if laid == "whole":
        return default_data_collator
    if laid == "flattened":
        return DataCollatorWithFlattening()
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), pad_token="<pad>")
    return DataCollatorForSeq2Seq(words)  # pads labels too, which are not learned there


def trainer_seconds(shape: InternLM2Config, optim: OptimConfig, made: PackedBatches, laid: Layout) -> float:
    """Processor seconds in which Trainer learns every sample once, in as many steps; no checkpoints, a log line a step."""
    model = LlamaForCausalLM(llama(shape))
    model.config.use_cache = False  # with a cache, flattened documents see one another
    assert sum(p.numel() for p in model.parameters()) == shape.parameter_count()
    rows = [sample.ids.tolist() for sample in made.samples[:]]
    clock = _Clock()
    rank = os.environ.pop("LOCAL_RANK", None)  # with it, Trainer would wrap the model for other ranks
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=-(-len(rows) // len(made)),
            num_train_epochs=1,
            learning_rate=optim.lr,
            lr_scheduler_type="cosine",
            weight_decay=optim.weight_decay,
            adam_beta1=optim.betas[0],
            adam_beta2=optim.betas[1],
            max_grad_norm=optim.clip,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        data: Any = [{"input_ids": row, "labels": row} for row in rows]
        trainer = Trainer(model, arguments, train_dataset=data, data_collator=collator(laid), callbacks=[clock])
        trainer.train()
    assert trainer.state.global_step == len(made)
    if rank is not None:
        os.environ["LOCAL_RANK"] = rank
    return clock.ended - clock.begun
