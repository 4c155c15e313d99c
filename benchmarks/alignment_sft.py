"""Fine-tuning beside TRL's SFTTrainer with packing: the same conversations, model shape and optimizer, one thread.

`python benchmarks/alignment_sft.py sft|all [--json] [--rounds N]`. Contestants take turns, round after round, each once over
all conversations; what each needs to start (encoding, packing, building the model) is no part. Seconds are the processor's:
other work on the machine is not theirs, and each has one thread. Tokens are those of the conversations, learned and read
alike, and no padding: the same number for both.
"""

import os
import random
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
import torch.distributed as dist
from rows import Table
from training import SHAPE
from training_peer import llama

from tokenmill.logs import Log
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.records import Record
from tokenmill.sft.arithmetic import questions
from tokenmill.sft.requests import requests
from tokenmill.sft.samples import chat_samples
from tokenmill.store import open_store
from tokenmill.training.checkpoint import Checkpoints
from tokenmill.training.data import PackedBatches, Sample, Samples, next_token_loss
from tokenmill.training.loop import Loop
from tokenmill.training.prefetch import Prefetched
from tokenmill.training.run import TrainingRun
from tokenmill.training.settings import OptimConfig, TrainingConfig, TrainingExecution
from tokenmill.training.watchdog import Heart

TABLE = Table(__doc__, "rounds", 5, "the median of so many is said")
CONTEXT, PACKS, CONVERSATIONS = 512, 4, 36
OPTIM = OptimConfig(lr=4e-5, final_lr_ratio=0.15, warmup_ratio=0.025, weight_decay=0.01)


@TABLE.row
def sft(rounds: int) -> dict[str, Any]:
    """Tokens a second of our fine-tuning over those of TRL's, which may take its packs one by one or a step's at once."""
    words, samples = conversations()
    made = PackedBatches(Samples.of(samples), CONTEXT, PACKS, seed=1, micro_batch_tokens=CONTEXT * PACKS)
    tokens = sum(map(len, samples))
    mine: list[float] = []
    theirs: dict[str, list[float]] = {"TRL, a pack at once": [], "TRL, a step's packs at once": []}
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        words.save(Path(folder) / "words")
        for number in range(rounds + 1):
            one = our_seconds(made, Path(folder) / str(number))
            spent = {
                name: trl_seconds(samples, Path(folder), at_once)
                for name, at_once in zip(theirs, (1, PACKS), strict=True)
            }
            if number:  # the first is for warming up
                mine.append(one)
                for name, seconds in spent.items():
                    theirs[name].append(seconds)
        dist.destroy_process_group()
    best = min(theirs.values(), key=statistics.median)
    ratios = [other / own for own, other in zip(mine, best, strict=True)]
    return {
        "parameters": SHAPE.parameter_count(),
        "conversations": len(samples),
        "tokens, of which learned": f"{tokens:,}, {sum(int((s.labels[1:] >= 0).sum()) for s in made.samples[:]):,}",
        "steps of 4 packs of 512 tokens": len(made),
        "ours, tokens/s": tokens / statistics.median(mine),
        **{f"{name}, tokens/s": tokens / statistics.median(spent) for name, spent in theirs.items()},
        "ratio to the faster": statistics.median(ratios),
        "ratio, each round": [round(ratio, 3) for ratio in ratios],
    }


def conversations(seed: int = 5) -> tuple[Tokenizer, list[Sample]]:
    """Conversations of one to twelve questions, and a tokenizer of the model's size that was learned from them."""
    draw = random.Random(seed)
    exchanges = [record["messages"] for record in islice(questions(seed), 400)]
    exchanges += [record["messages"] for answers in islice(requests(seed), 200) for record in answers]
    draw.shuffle(exchanges)
    records: list[Record] = []
    while len(records) < CONVERSATIONS:
        taken, exchanges = exchanges[: (n := draw.randint(1, 12))], exchanges[n:]
        records.append({"messages": [message for exchange in taken for message in exchange], "source": "made"})
    texts = [message["content"] for record in records for message in record["messages"]]
    words = Tokenizer.train([*texts, "system\nuser\nassistant\n"], SHAPE.vocab_size)
    return words, chat_samples(records, words, CONTEXT)


def our_seconds(made: PackedBatches, folder: Path) -> float:
    """Processor seconds of all steps of our loop, engine, ledger and metrics on, from the first's begin to the last's end."""
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    model = InternLM2ForCausalLM(SHAPE, seed=0)
    run = TrainingRun(model, Prefetched(made), next_token_loss, OPTIM, lambda *_: None, plan=made.plan())
    execution = TrainingExecution(ranks=1, checkpoint_every=1000, zero_stage=0)
    config = TrainingConfig(precision="fp32", execution=execution)
    store = open_store((folder / "store").as_uri())
    checkpoints = Checkpoints(store, "key", folder / "local", execution, Log())
    heart = Heart(store, "work/key/attempt", rank=0, limit_s=3600)
    begun: list[float] = []
    ended: list[float] = []

    def check() -> None:
        begun.append(time.process_time())

    def report(values: dict[str, float], step: int) -> None:
        ended.append(time.process_time())

    heart.start()
    Loop(run, config, checkpoints, report, check, heart).train()
    heart.stop()
    checkpoints.wait()
    del os.environ["LOCAL_RANK"]  # with it, TRL would wrap the model for other ranks
    assert len(ended) >= len(made)
    return ended[len(made) - 1] - begun[0]


def trl_seconds(samples: list[Sample], folder: Path, at_once: int) -> float:
    """Processor seconds of all steps of TRL's SFTTrainer, from the first's begin to the last's end."""
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaForCausalLM, PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.process_time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.process_time())

    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        packing=True,  # best-fit-decreasing, as ours; no conversation sees another
        max_length=CONTEXT,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=PACKS // at_once,
        num_train_epochs=1,
        learning_rate=OPTIM.lr,
        lr_scheduler_type="cosine",
        warmup_steps=OPTIM.warmup_ratio,
        weight_decay=OPTIM.weight_decay,
        adam_beta1=OPTIM.betas[0],
        adam_beta2=OPTIM.betas[1],
        max_grad_norm=OPTIM.clip,
        gradient_checkpointing=False,  # ours recomputes nothing either
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    data = Dataset.from_dict({"input_ids": [list(s.ids) for s in samples], "labels": [list(s.labels) for s in samples]})
    trainer = SFTTrainer(
        LlamaForCausalLM(llama(SHAPE)),
        arguments,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(folder / "words"),
        callbacks=[Clock()],
    )
    trainer.remove_callback(PrinterCallback)  # standard output is for the table
    packed = trainer.train_dataset
    assert sum(map(len, packed["input_ids"])) == sum(map(len, samples))  # nothing cut: the same work
    trainer.train()
    return times[-1] - times[0]


if __name__ == "__main__":
    TABLE.main()
