"""PPO's answers by vLLM: one engine process in the serving environment, weights by safetensors folder, a private socket."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from tokenmill import tether
from tokenmill.model.folder import export_llama, save_model
from tokenmill.model.layout import llama_state
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.rlhf import vllm_process
from tokenmill.rlhf.config import PPOExecution, SamplingConfig
from tokenmill.rlhf.engines import Answer, Request
from tokenmill.rlhf.scoring import answer_distributions
from tokenmill.serving import EngineError, decisive_line, engine_environment, last_line, serve_python, serving_available

WEIGHTS = "model.safetensors"


class VLLMProcess:
    """The engine process of this rank. It ends with `close`, with this process, or with the socket.

    Args:
        folder: a new folder of its own: the model it starts with, later weights, its log.
        actor: whose shapes it has, and whose weights it starts with.
        sequences: answers that it draws at once.
    """

    def __init__(self, folder: Path, actor: InternLM2ForCausalLM, sequences: int, settings: PPOExecution) -> None:
        available, reason = serving_available()
        if not available:
            raise EngineError(f"rlhf.ppo.rollouts=vllm: {reason}")
        self.folder, self.config, self.log = folder, actor.config, folder / "vllm.log"
        save_model(actor, folder / "ours")
        export_llama(folder / "ours", folder / "model")
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-I", tether.__file__, str(serve_python()), vllm_process.__file__]
        with theirs, self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env=engine_environment() | tether.tethered(),
            )
        self._stream = ours.makefile("rwb")
        ours.close()  # the stream holds it
        self._starting = True
        memory: dict[str, Any] = {"kv_cache_memory_bytes": settings.engine_kv_cache_mib << 20}
        if torch.cuda.is_available():
            memory = {"gpu_memory_utilization": settings.engine_gpu_memory}
        self._send(
            do="start",
            model=str(folder / "model"),
            dtype=str(actor.output.weight.dtype).removeprefix("torch."),
            context=actor.config.max_position_embeddings,
            sequences=sequences,
            seed=0,
            memory=memory,
        )

    @property
    def pid(self) -> int:
        """Of the engine's process."""
        return self._process.pid

    def load(self, actor: InternLM2ForCausalLM) -> None:
        """Hand over the actor's weights, to the bit."""
        there = self.folder / "weights"
        there.mkdir(exist_ok=True)
        state = llama_state(self.config, {name: tensor.detach().cpu() for name, tensor in actor.state_dict().items()})
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, there / WEIGHTS, {"format": "pt"})
        self.ask(do="load", folder=str(there))

    def ask(self, **request: Any) -> dict[str, Any]:
        """The engine's reply.

        Raises:
            EngineError: it refused, or died; with the decisive line of its log.
        """
        if self._starting:
            self._starting = False
            self._receive()
        self._send(**request)
        return self._receive()

    def close(self) -> None:
        """End the engine."""
        self._stream.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, **request: Any) -> None:
        try:
            self._stream.write(json.dumps(request).encode() + b"\n")
            self._stream.flush()
        except OSError as error:
            raise self._died() from error

    def _receive(self) -> dict[str, Any]:
        line = self._stream.readline()
        if not line:
            raise self._died()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise EngineError(f"the rollout engine failed: {decisive_line(self._printed()) or reply['error']}")
        return reply

    def _died(self) -> EngineError:
        code, printed = self._process.wait(), self._printed()
        why = decisive_line(printed) or last_line(printed) or "it printed nothing"
        return EngineError(f"the rollout engine died with {code}: {why}")

    def _printed(self) -> str:
        return self.log.read_text(errors="replace")


def gathered(value: Any) -> list[Any] | None:
    """Every rank's value, on rank 0."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values)
    return values


def scattered(values: list[Any] | None) -> Any:
    """This rank's of the values that rank 0 has."""
    if not dist.is_initialized():
        assert values
        return values[0]
    mine: list[Any] = [None]
    dist.scatter_object_list(mine, values)
    return mine[0]


class VLLMEngine:
    """All ranks' requests in one batch, drawn by the engine process of rank 0.

    Importance ratios are relative to the actor's own log-probabilities, computed once more over the answers: so the first
    pass is on-policy to the last bits whatever the engine's kernels round, and what they round is measured as `engine_error`.
    Answers are those of another sampler than the native one; each has a seed of its own.

    Args:
        process: on rank 0; None on the others.
    """

    def __init__(
        self,
        process: VLLMProcess | None,
        actor: InternLM2ForCausalLM,
        sampling: SamplingConfig,
        stop_ids: Sequence[int],
    ) -> None:
        self.process, self.actor = process, actor
        self.sampling = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop_token_ids": list(stop_ids),
            "ignore_eos": True,  # the stop ids say all
        }

    def draw(self, requests: Sequence[Request]) -> list[list[Answer]]:
        everyones = gathered([(request.prompts, request.seed) for request in requests])
        told = scattered(self._drawn(everyones) if everyones is not None else None)
        return [self._answers(request.prompts, block) for request, block in zip(requests, told, strict=True)]

    def _drawn(self, everyones: Sequence[Sequence[tuple[list[list[int]], int]]]) -> list[list[list[dict[str, Any]]]]:
        """Rank → block → answers, as the engine tells them."""
        assert self.process, "rank 0 has the engine"
        self.process.load(self.actor)
        blocks = [block for blocks in everyones for block in blocks]
        seeds = [numpy.random.SeedSequence(seed).generate_state(len(prompts)).tolist() for prompts, seed in blocks]
        reply = self.process.ask(
            do="draw",
            prompts=[prompt for prompts, _ in blocks for prompt in prompts],
            seeds=[seed for block in seeds for seed in block],
            sampling=self.sampling,
        )
        self.process.ask(do="sleep")
        told = iter(reply["answers"])
        return [[[next(told) for _ in prompts] for prompts, _ in blocks] for blocks in everyones]

    def _answers(self, prompts: Sequence[list[int]], told: Sequence[dict[str, Any]]) -> list[Answer]:
        own = answer_distributions(self.actor, prompts, [one["tokens"] for one in told])
        return [
            Answer(
                one["tokens"],
                logprobs,
                entropies,
                one["finished"],
                float((logprobs - torch.tensor(one["logprobs"])).abs().sum()),
            )
            for one, (logprobs, entropies) in zip(told, own, strict=True)
        ]
