"""A model behind an OpenAI-compatible endpoint that takes token ids: vLLM's, or one that speaks as it does.

Prompts go as token ids, which our tokenizer made, so that no template and no special token lies between the two backends.
Losses are those of an echoed prompt (`echo`, `logprobs`: OpenAI's own form); of answers the token ids come back.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from tokenmill.errors import InputError, UserError
from tokenmill.evaluation.backend import Answer, Ids, Loss, Sample, Sampling
from tokenmill.evaluation.config import EndpointExecution
from tokenmill.model import IGNORE
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.server import Server

T = TypeVar("T")
R = TypeVar("R")
KEY = "TOKENMILL_ENDPOINT_KEY"
"""Environment: the endpoint's key, where it wants one."""
_PROBE = "The old king rode over 37 hills; 语言模型 naïve\n\tdef f(x): return x"


@dataclass(frozen=True)
class Endpoint:
    """A served model."""

    server: Server
    model: str
    """Name in requests."""
    concurrency: int
    """Requests under way together."""

    @classmethod
    def at(cls, model: str, execution: EndpointExecution) -> "Endpoint":
        if not execution.url:
            raise InputError("no endpoint: give --endpoint, or evaluation.evaluate.execution.url")
        server = Server(execution.url, KEY, "endpoint", execution.timeout_s, execution.tries)
        return cls(server, model, execution.concurrency)

    @cached_property
    def context(self) -> int:
        """vLLM's own word for it, `max_model_len` of the model's card."""
        cards = {card["id"]: card for card in self.server.get("/models")["data"]}
        if self.model not in cards:
            raise InputError(f"the endpoint at {self.server.url} serves {', '.join(cards)}, not {self.model!r}")
        if not (length := cards[self.model].get("max_model_len")):
            raise InputError(f"the endpoint at {self.server.url} does not say how many tokens {self.model} reads")
        return int(length)

    def check(self, tokenizer: Tokenizer) -> None:
        """Both must mean the same text by the same ids: the echo of a probe is read back."""
        ids = tokenizer.encode(_PROBE)[: self.context - 1]
        wanted = tokenizer.decode(ids)
        echoed = self._ask(ids, echo=True, logprobs=0, max_tokens=0)["text"]
        if echoed != wanted:
            raise InputError(
                f"the endpoint reads {wanted[:40]!r} as {echoed[:40]!r}: give the tokenizer that {self.model} was "
                "trained with"
            )

    def losses(self, samples: Sequence[Sample]) -> list[Loss]:
        return self._together(self._loss, samples)

    def _loss(self, sample: Sample) -> Loss:
        if len(sample.ids) < 2:
            return Loss(0.0, 0)
        ids, labels = list(sample.ids), list(sample.labels)
        if len(ids) < self.context:
            told = self._ask(ids, echo=True, logprobs=0, max_tokens=0)["logprobs"]
        else:  # vLLM keeps a place for a token to write: the last one is written, and could be no other
            last = {"max_tokens": 1, "allowed_token_ids": ids[-1:], "ignore_eos": True}
            told = self._ask(ids[:-1], echo=True, logprobs=0, **last)["logprobs"]
        logprobs = (told or {}).get("token_logprobs") or []
        if len(logprobs) != len(ids):
            raise UserError(
                f"the endpoint gives {len(logprobs)} log-probabilities of {len(ids)} tokens: it must echo them"
            )
        counted = [-logprobs[i] for i in range(1, len(ids)) if labels[i] != IGNORE]
        return Loss(sum(counted), len(counted))

    def answers(self, prompts: Sequence[Ids], sampling: Sampling) -> list[Answer]:
        return self._together(lambda asked: self._answer(*asked, sampling=sampling), list(enumerate(prompts)))

    def _answer(self, number: int, prompt: Ids, sampling: Sampling) -> Answer:
        made = self._ask(
            prompt,
            max_tokens=min(sampling.max_tokens, self.context - len(prompt)),
            temperature=sampling.temperature,
            seed=sampling.seed + number,  # prompts that are alike are answered differently
            stop_token_ids=list(sampling.stop_ids),
            return_token_ids=True,
        )
        if made.get("token_ids") is None:
            raise UserError(
                f"the endpoint at {self.server.url} gives no token ids of its answers (vLLM from 0.10.2 does)"
            )
        tokens, stopped = list(made["token_ids"]), made["finish_reason"] == "stop"
        if stopped and (not tokens or tokens[-1] not in sampling.stop_ids):
            tokens.append(made.get("stop_reason") or sampling.stop_ids[0])
        return Answer(tokens, stopped)

    def _ask(self, prompt: Ids, **options: Any) -> dict[str, Any]:
        """The one choice of a completion; nothing of the server's own defaults is left to change it."""
        own = {"temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0, "add_special_tokens": False}
        shown = {"skip_special_tokens": False, "spaces_between_special_tokens": False}
        body = {"model": self.model, "prompt": list(prompt), **own, **shown, **options}
        try:
            return dict(self.server.post("/completions", body)["choices"][0])
        except (LookupError, TypeError, ValueError):
            raise UserError(f"the endpoint at {self.server.url} does not speak OpenAI's completion protocol") from None

    def _together(self, ask: Callable[[T], R], items: Sequence[T]) -> list[R]:
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(ask, items))
