"""The peers of alignment: TRL's PPO trainer and transformers' generate, on Hugging Face's Llama of the same shape."""

import io
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from itertools import pairwise
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.models import WordLevel
from training_peer import llama
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

from tokenmill.model.config import InternLM2Config
from tokenmill.model.layout import llama_state
from tokenmill.model.modeling import InternLM2ForCausalLM

PAD = 0


def words(shape: InternLM2Config) -> PreTrainedTokenizerFast:
    """A tokenizer that pads on the left; nothing is tokenised."""
    raw = RawTokenizer(WordLevel({"<pad>": PAD, "</s>": 2}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="</s>",
        padding_side="left",
        model_max_length=shape.max_position_embeddings,
    )


class _Clock(TrainerCallback):
    """When each iteration ended, in processor seconds."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.process_time())


def ppo_seconds(
    shape: InternLM2Config, prompts: Sequence[list[int]], answers: int, new_tokens: int, iterations: int
) -> list[float]:
    """Seconds of every iteration but the first: one pass over `answers` answers of `new_tokens` tokens each."""
    policy, reference = LlamaForCausalLM(llama(shape)), LlamaForCausalLM(llama(shape))
    reference.load_state_dict(policy.state_dict())
    scored = llama(shape)
    scored.num_labels, scored.pad_token_id = 1, PAD
    reward, value = LlamaForSequenceClassification(scored), LlamaForSequenceClassification(scored)
    clock = _Clock()
    rank = os.environ.pop("LOCAL_RANK", None)  # with it, accelerate would look for other ranks
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):  # it prints every iteration
        arguments = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=answers,
            local_rollout_forward_batch_size=answers,
            num_ppo_epochs=1,
            num_mini_batches=1,
            num_sample_generations=0,
            total_episodes=answers * iterations,
            response_length=new_tokens,
            temperature=1.0,
            gamma=1.0,
            lam=0.99,
            kl_coef=0.01,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        PPOTrainer(
            args=arguments,
            processing_class=words(shape),
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=Dataset.from_dict({"input_ids": [list(prompt) for prompt in prompts]}),
            callbacks=[clock],
        ).train()
    if rank is not None:
        os.environ["LOCAL_RANK"] = rank
    assert len(clock.ends) == iterations
    return [after - before for before, after in pairwise(clock.ends)]


class Generation:
    """transformers' generate with its KV cache, a whole batch at once, padded on the left; of the actor's own weights."""

    def __init__(self, actor: InternLM2ForCausalLM, prompts: Sequence[list[int]]) -> None:
        shape = actor.config
        self.model = LlamaForCausalLM(llama(shape)).to(actor.output.weight.dtype).eval()
        self.model.load_state_dict(llama_state(shape, actor.state_dict()))
        padded = words(shape).pad({"input_ids": [list(prompt) for prompt in prompts]}, return_tensors="pt")
        self.ids, self.mask = padded["input_ids"], padded["attention_mask"]

    def __call__(self, new_tokens: int, top_p: float) -> int:
        """Sample `new_tokens` tokens a prompt; says how many that are."""
        return self._sampled(new_tokens, min_new_tokens=new_tokens, top_p=top_p).numel()

    def until(self, stops: Sequence[int], new_tokens: int) -> int:
        """Sample until one of `stops`; says how many tokens that are, those with it, without what fills up the batch."""
        made = self._sampled(new_tokens, eos_token_id=list(stops))
        ended = torch.isin(made, torch.tensor(stops))
        return int((ended.cumsum(1) - ended.int() == 0).sum())

    @torch.no_grad()
    def _sampled(self, new_tokens: int, **how: Any) -> torch.Tensor:
        made = self.model.generate(
            input_ids=self.ids,
            attention_mask=self.mask,
            max_new_tokens=new_tokens,
            do_sample=True,
            top_k=0,
            pad_token_id=PAD,
            **how,
        )
        return made[:, self.ids.shape[1] :]
