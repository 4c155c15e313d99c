"""vLLM's offline engine behind a socket: `python vllm_process.py FD`, with the serving environment's Python.

Nothing of TokenMill is imported here: that environment has none of it. A request is a line of JSON, and so is its answer;
the socket is a pair's other end, so no other process can reach it, and its end is this process's end.
"""

import json
import socket
import sys
import traceback
from typing import Any

Reply = dict[str, Any]


class Engine:
    """What the requests ask for; `start` comes first."""

    def __init__(self) -> None:
        self.llm: Any = None
        self.sleeps = False

    def start(self, model: str, dtype: str, context: int, sequences: int, seed: int, memory: Reply) -> Reply:
        """Load a folder in Llama layout. `memory` are vLLM's own settings of it."""
        import torch
        from vllm import LLM

        self.sleeps = torch.cuda.is_available()
        on_cpu = {} if self.sleeps else {"logits_processors": [nucleus()]}
        self.llm = LLM(
            model=model,
            dtype=dtype,
            max_model_len=context,
            max_num_seqs=sequences,
            seed=seed,
            skip_tokenizer_init=True,
            enforce_eager=not self.sleeps,
            enable_prefix_caching=False,  # what is in it depends on what was asked before, and last bits on it
            enable_sleep_mode=self.sleeps,
            distributed_executor_backend="uni",
            disable_log_stats=True,
            **memory,
            **on_cpu,
        )
        return self.sleep()  # until it is asked

    def load(self, folder: str) -> Reply:
        """Take over the weights of a folder; the shapes are those of the model it started with."""
        if self.sleeps:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        if self.sleeps:
            self.llm.wake_up(tags=["kv_cache"])
        return {}

    def sleep(self) -> Reply:
        """Give the GPU's memory back, weights and all: `load` comes before the next answers. Nothing on a CPU."""
        if self.sleeps:
            self.llm.sleep(level=2)
        return {}

    def draw(self, prompts: list[list[int]], seeds: list[int], sampling: Reply) -> Reply:
        from vllm import SamplingParams

        if not self.sleeps:
            sampling = {**sampling, "top_p": 1.0, "extra_args": {"nucleus": sampling.get("top_p", 1.0)}}
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        how = [SamplingParams(seed=seed, logprobs=0, detokenize=False, **sampling) for seed in seeds]
        answers = []
        for output in self.llm.generate(asked, how, use_tqdm=False):
            said = output.outputs[0]
            tokens = list(said.token_ids)
            logprobs = [at[token].logprob for at, token in zip(said.logprobs, tokens, strict=True)]
            answers.append({"tokens": tokens, "logprobs": logprobs, "finished": said.finish_reason == "stop"})
        return {"answers": answers}


def nucleus() -> type:
    """What holds a row to the smallest set of tokens with `top_p` of the mass, on a CPU. vLLM sorts logits by torch there:
    15 ms for 32 rows of 8,192, three fifths of a step of 10M parameters; by numpy's vectorised sort it is 2 ms."""
    import numpy
    import torch
    from vllm.v1.sample.logits_processor import LogitsProcessor
    from vllm.v1.sample.logits_processor.builtin import process_dict_updates

    class Nucleus(LogitsProcessor):
        def __init__(self, config: Any, device: Any, pinned: bool) -> None:
            self.shares: dict[int, float] = {}
            """Row → mass, where it is not all."""

        def is_argmax_invariant(self) -> bool:
            return True  # so it comes after temperature, as top_p does

        def update_state(self, update: Any) -> None:
            process_dict_updates(self.shares, update, self._share)

        @staticmethod
        def _share(params: Any, prompt: Any, said: Any) -> float | None:
            share = (params.extra_args or {}).get("nucleus", 1.0)
            return share if share < 1 else None

        def apply(self, logits: Any) -> Any:
            if not self.shares:
                return logits
            rows, share = list(self.shares), torch.tensor(list(self.shares.values()))[:, None]
            probabilities = logits[rows].softmax(-1)
            ranked = torch.from_numpy(numpy.sort(probabilities.numpy())).flip(-1)
            size = (ranked.cumsum(-1) - ranked < share).sum(-1, keepdim=True).clamp(min=1)
            outside = probabilities < ranked.gather(1, size - 1)
            logits[rows] = logits[rows].masked_fill(outside, -float("inf"))
            return logits

    return Nucleus


def main(descriptor: int) -> None:
    engine = Engine()
    with socket.socket(fileno=descriptor) as sock, sock.makefile("rwb") as stream:
        for line in stream:
            request = json.loads(line)
            try:
                reply = getattr(engine, request.pop("do"))(**request)
            except Exception as failure:
                traceback.print_exc()
                reply = {"error": f"{type(failure).__name__}: {failure}"}
            stream.write(json.dumps(reply).encode() + b"\n")
            stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
