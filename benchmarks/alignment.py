"""Alignment measured: PPO beside TRL's, vLLM's answers beside transformers' generate, the way of weights to vLLM, SFT.

`python benchmarks/alignment.py ROW|all [--json] [--rounds N]`, ROW one of ppo, rollouts, rollouts_bf16, rollouts_ended,
weight_sync, sft; one thread, processor time, that of vLLM's process with it. Contestants take turns, round after round; what
each needs to start is no part.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy
import psutil
import torch
import torch.distributed as dist
from rows import Table

from tokenmill.logs import Log
from tokenmill.model.chat import encode_prompt
from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2Critic, InternLM2ForCausalLM, InternLM2ForRewardModel
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.rlhf.actor_critic import ActorCritic, ppo_loss
from tokenmill.rlhf.conditional import Query
from tokenmill.rlhf.config import PPOConfig, PPOExecution, SamplingConfig
from tokenmill.rlhf.engines import NativeEngine, Request, RolloutEngine
from tokenmill.rlhf.rollouts import Rollouts
from tokenmill.rlhf.vllm_engine import VLLMEngine, VLLMProcess
from tokenmill.serving import serving_available
from tokenmill.store import open_store
from tokenmill.training.checkpoint import Checkpoints
from tokenmill.training.loop import Loop
from tokenmill.training.run import ParameterGroup, TrainingRun
from tokenmill.training.watchdog import Heart

TABLE = Table(__doc__, "rounds", 5, "the median of so many is said")
SHAPE = InternLM2Config.preset("nano")
LARGER = replace(
    SHAPE,
    vocab_size=8192,
    hidden_size=256,
    num_hidden_layers=8,
    num_attention_heads=4,
    head_dim=64,
    intermediate_size=768,
)
"""Ten million parameters: of nano's milliseconds a token most are Python's."""
ANSWERS, NEW_TOKENS, ITERATIONS = 32, 48, 5
LONGEST = 256
"""Tokens an answer at most, where answers end by themselves: a fifth of it on average."""
TOP_P = 0.9
WORDS = "sure first get ready then open close paint wash the door wall coat key box fish step by home how do we please".split()  # noqa: SIM905


@TABLE.row
def ppo(rounds: int) -> dict[str, Any]:
    """Samples a second of one PPO iteration, native answers, against TRL's PPO on the same prompts and lengths.

    Both draw, judge with four models of one shape, and learn in one pass. No pretraining gradient, which TRL has not.
    """
    from alignment_peer import ppo_seconds

    ours: list[float] = []
    theirs: list[float] = []
    with _one_rank():
        for number in range(rounds + 1):
            mine, peers = _ours(), ppo_seconds(SHAPE, _prompts(), ANSWERS, NEW_TOKENS, ITERATIONS)
            if number:  # the first is for warming up
                ours.append(statistics.median(mine))
                theirs.append(statistics.median(peers))
    return {
        "parameters of a model": SHAPE.parameter_count(),
        "answers an iteration": ANSWERS,
        "tokens an answer": NEW_TOKENS,
        "ours, samples/s": ANSWERS / statistics.median(ours),
        "TRL, samples/s": ANSWERS / statistics.median(theirs),
        **_ratio(theirs, ours),
    }


@TABLE.row
def rollouts(rounds: int) -> dict[str, Any]:
    """Sampled tokens a second at batch 32: vLLM's process and our own generation, against transformers' generate.

    vLLM's with the weights handed over and log-probabilities computed once more by the actor, as PPO needs both.
    """

    return {
        f"{shape.parameter_count() / 1e6:.1f}M, {what}": value
        for shape in (SHAPE, LARGER)
        for what, value in _rollouts(shape, rounds, torch.float32).items()
    }


@TABLE.row
def rollouts_bf16(rounds: int) -> dict[str, Any]:
    """The same of the larger model in bf16, as models of use are drawn from; a CPU wants AVX512-BF16 or AMX for it."""
    return _rollouts(LARGER, rounds, torch.bfloat16)


@TABLE.row
def rollouts_ended(rounds: int) -> dict[str, Any]:
    """Useful tokens a second of answers as PPO has them: each ends by itself, after 51 tokens on average and 256 at most.

    One request of 32, and one of 128 of which 32 are drawn at once: vLLM goes on with the next prompt where an answer has
    ended, ours with the rows that are left, and transformers' batch runs until its last answer ends.
    """
    from alignment_peer import Generation

    actor, told = InternLM2ForCausalLM(LARGER, seed=0), {}
    prompts, sampling = _prompts(), SamplingConfig(max_new_tokens=LONGEST, top_p=1.0)
    stops = _stops(actor, prompts[:ANSWERS], 5 / LONGEST)
    batches = [Request(prompts[i : i + ANSWERS], seed=i) for i in range(0, 4 * ANSWERS, ANSWERS)]
    peers = [Generation(actor, request.prompts) for request in batches]
    with _engine(actor) as process:
        vllm, native = VLLMEngine(process, actor, sampling, stops), NativeEngine(actor, sampling, stops)
        for many in (1, 4):
            contestants = {
                "vLLM": partial(_drawn, vllm, batches[:many]),
                "native": partial(_drawn, native, batches[:many]),
                "transformers": lambda some=peers[:many]: sum(peer.until(stops, LONGEST) for peer in some),
            }
            told |= _compared(contestants, rounds, process, f"{many * ANSWERS} answers")
    return told


def _stops(actor: InternLM2ForCausalLM, prompts: Sequence[list[int]], wanted: float) -> list[int]:
    """Tokens that together are said `wanted` of the time: an answer that they end has 1 / `wanted` tokens on average."""
    from tokenmill.training.packing import Pack

    pack = Pack.of(prompts)
    with torch.no_grad():
        said = actor(pack.input_ids, pack.cu_seqlens).softmax(-1).mean(0)
    first = 1  # beyond the padding
    return list(range(first, first + int((said[first:].cumsum(0) < wanted).sum()) + 1))


def _rollouts(shape: InternLM2Config, rounds: int, dtype: torch.dtype) -> dict[str, Any]:
    from alignment_peer import Generation

    actor, request = InternLM2ForCausalLM(shape, seed=0).to(dtype), Request(_prompts()[:ANSWERS], seed=1)
    peer, told = Generation(actor, request.prompts), {}
    with _engine(actor) as process:
        for top_p in (1.0, TOP_P):
            sampling = SamplingConfig(max_new_tokens=NEW_TOKENS, top_p=top_p)
            contestants: dict[str, Callable[[], int]] = {
                "vLLM": partial(_drawn, VLLMEngine(process, actor, sampling, ()), [request]),
                "native": partial(_drawn, NativeEngine(actor, sampling, ()), [request]),
                "transformers": partial(peer, NEW_TOKENS, top_p),
            }
            told |= _compared(contestants, rounds, process, f"top_p {top_p}")
    return told


def _compared(
    contestants: Mapping[str, Callable[[], int]], rounds: int, process: VLLMProcess, what: str
) -> dict[str, Any]:
    """Tokens a second of each, and of the others over the last; a first round is for warming up."""
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    """Processor seconds a token."""
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            start = _processor(process)
            tokens = contestant()
            if number:
                spent[name].append((_processor(process) - start) / tokens)
    told: dict[str, Any] = {f"{what}: {name}, tokens/s": 1 / statistics.median(t) for name, t in spent.items()}
    *ours, peer = contestants
    for name in ours:
        for of, value in _ratio(spent[peer], spent[name]).items():
            told[f"{what}: {name} over {peer}, {of}"] = value
    return told


@TABLE.row
def weight_sync(rounds: int) -> dict[str, Any]:
    """Seconds from the actor's weights in memory to vLLM's answers being theirs: files, reload, acknowledgement."""
    actor = InternLM2ForCausalLM(SHAPE, seed=0)
    spent = []
    with _engine(actor) as process:
        for _ in range(rounds + 1):
            start = time.perf_counter()
            process.load(actor)
            spent.append(time.perf_counter() - start)
    return {"parameters": SHAPE.parameter_count(), "s": statistics.median(spent[1:]), "largest, s": max(spent[1:])}


@TABLE.row
def sft(rounds: int) -> dict[str, Any]:
    """Useful tokens a second of fine-tuning against TRL's SFTTrainer with packing."""
    from alignment_sft import sft as fine_tuning

    return fine_tuning(rounds)


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    ratios = [other / mine for other, mine in zip(theirs, ours, strict=True)]
    return {"ratio": statistics.median(ratios), "ratio, each round": [round(ratio, 2) for ratio in ratios]}


def _words() -> Tokenizer:
    return Tokenizer.train(_texts(400), vocab_size=512)


def _texts(count: int) -> list[str]:
    """Requests of 8 to 40 made-up words; the same for all."""
    draw = numpy.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, int(n)).tolist()) for n in draw.integers(8, 41, count)]


def _queries() -> list[Query]:
    asked = _texts(ANSWERS * ITERATIONS)
    return [Query(str(n), "helpful", ({"role": "user", "content": text},)) for n, text in enumerate(asked)]


def _prompts() -> list[list[int]]:
    words = _words()
    return [encode_prompt(query.prompt, words) for query in _queries()]


class _NoPretraining:
    """TRL has no gradient of pretraining: neither has this comparison."""

    def draw(self, tokens: int, draw: numpy.random.Generator) -> list[list[int]]:
        return []


def _ours() -> list[float]:
    """Seconds of every iteration but the first, by the whole loop: engine, metrics, log."""
    words = _words()
    config = PPOConfig(
        evaluations=0,
        precision="fp32",
        iterations=ITERATIONS,
        critic_warmup=0,
        answers=ANSWERS,
        block=ANSWERS,
        sampling=SamplingConfig(max_new_tokens=NEW_TOKENS, top_p=1.0),  # TRL's
        pretrain_share=0.0,
        max_length=SHAPE.max_position_embeddings,
        execution=PPOExecution(ranks=1, zero_stage=0),
    )
    actor = InternLM2ForCausalLM(SHAPE, seed=0)
    model = ActorCritic(actor, InternLM2Critic(SHAPE, seed=1))
    batches = Rollouts(
        engine=NativeEngine(actor, config.sampling, ()),
        model=model,
        reference=InternLM2ForCausalLM(SHAPE, seed=0),
        reward_model=InternLM2ForRewardModel(SHAPE, seed=2),
        tokenizer=words,
        queries=_queries(),
        pretraining=_NoPretraining(),  # type: ignore[arg-type]
        config=config,
    )
    groups = [ParameterGroup(list(model.actor.parameters())), ParameterGroup(list(model.critic.parameters()))]
    run = TrainingRun(model, batches, ppo_loss(config), config.optim, lambda *_: None, groups, on_step=batches.measured)
    ends: list[float] = []

    def at_end(values: Mapping[str, float], tokens: int) -> None:
        if "loss" in values:  # of a step: the loop also tells what has happened before it began
            ends.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        store = open_store((Path(folder) / "store").as_uri())
        checkpoints = Checkpoints(store, "key", Path(folder) / "local", config.execution, Log())
        heart = Heart(store, "work/key/attempt", rank=0, limit_s=60)
        heart.start()
        Loop(run, config, checkpoints, at_end, lambda: None, heart).train()
        heart.stop()
    assert len(ends) == ITERATIONS
    return [after - before for before, after in pairwise(ends)]


def _drawn(engine: RolloutEngine, requests: Sequence[Request]) -> int:
    """Tokens of all answers."""
    return sum(len(answer.tokens) for answers in engine.draw(requests) for answer in answers)


def _processor(process: VLLMProcess) -> float:
    """Processor seconds of this process and of the engine's."""
    engine = psutil.Process(process.pid).cpu_times()
    return time.process_time() + engine.user + engine.system


@contextmanager
def _engine(actor: InternLM2ForCausalLM) -> Any:
    available, reason = serving_available()
    if not available:
        raise SystemExit(reason)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        process = VLLMProcess(Path(folder), actor, ANSWERS, PPOExecution())
        yield process
        process.close()


@contextmanager
def _one_rank() -> Any:
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": "0"}  # DeepSpeed asks for it
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        yield
        dist.destroy_process_group()


if __name__ == "__main__":
    TABLE.main()
