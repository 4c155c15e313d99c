"""A model as judge, behind any OpenAI-compatible endpoint: a rating of one answer, or the better of two.

A judge likes what it reads first. So a pair is asked about in both orders, and a judge that changes its mind has seen no
difference: a tie (report §5.3 swaps orders; counting a disagreement as a tie is ours). The prompts are our own words for
MT-bench's forms (Zheng et al. 2023), with its verdicts: `[[8]]`, `[[A]]`, `[[B]]`, `[[C]]`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import Field

from tokenmill.config import Section
from tokenmill.errors import UserError
from tokenmill.server import Server

Verdict = Literal["first", "second", "tie"]
Ask = Callable[[str], str]
"""A prompt → what the judge says."""
KEY = "TOKENMILL_JUDGE_KEY"
"""Environment: the endpoint's key, where it wants one."""

_RATING = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")
_CHOICE = re.compile(r"\[\[\s*([ABC])\s*\]\]")
RATE = """Judge how well an assistant has answered a user: is it right, helpful, relevant, deep enough and clear?
Explain briefly, then give a whole number from 1 to 10 in this very form: [[5]]

[Question]
{question}

[Answer]
{answer}
[End of the answer]"""
COMPARE = """Two assistants have answered the same question. Judge which answer is better: right, helpful, relevant, clear.
Neither the order in which they stand nor their length is a merit. Explain briefly, then give your verdict in this very form:
[[A]] if A is better, [[B]] if B is better, [[C]] if neither is.

[Question]
{question}

[Answer of A]
{first}
[End of A]

[Answer of B]
{second}
[End of B]"""


class JudgeExecution(Section):
    """Where a judge is, and how it is asked. Its key, where it wants one, is in TOKENMILL_JUDGE_KEY."""

    url: str = Field("", description="of an OpenAI-compatible server with a chat API; `/v1` or not")
    concurrency: int = Field(16, ge=1, le=64, description="answers, or pairs of them, that are judged together")
    timeout_s: float = Field(120.0, gt=0, description="of a request, seconds")
    tries: int = Field(4, ge=1, description="of a request that a busy or absent server did not answer")


@dataclass(frozen=True)
class Endpoint:
    """A chat model behind an OpenAI-compatible server. Its key stands in `TOKENMILL_JUDGE_KEY`, in no config."""

    url: str
    """To `/v1`, which is left out or not."""
    model: str
    timeout_s: float = 120.0
    tries: int = 3
    """Of a question that the server could not answer: busy, or away."""
    max_tokens: int = 1024

    @classmethod
    def at(cls, model: str, max_tokens: int, how: JudgeExecution) -> "Endpoint":
        return cls(how.url, model, how.timeout_s, how.tries, max_tokens)

    def __call__(self, prompt: str) -> str:
        """One answer, greedy. Raises UserError where the server stays away or refuses."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        document = self._server.post("/chat/completions", body)
        try:
            return str(document["choices"][0]["message"]["content"])
        except (LookupError, TypeError):
            raise UserError(f"the judge at {self.url} does not speak OpenAI's chat protocol") from None

    @cached_property
    def _server(self) -> Server:
        return Server(self.url, KEY, "judge", self.timeout_s, self.tries)


def rate(question: str, answer: str, judge: Ask) -> float | None:
    """1 to 10; None where the judge gave no rating, or none in that range."""
    return rating(judge(RATE.format(question=question, answer=answer)))


def rating(said: str) -> float | None:
    """The last `[[number]]` from 1 to 10: what comes before may quote the form."""
    found = [float(number) for number in _RATING.findall(said)]
    return found[-1] if found and 1 <= found[-1] <= 10 else None


def compare(question: str, first: str, second: str, judge: Ask, prompt: str = COMPARE, **told: str) -> Verdict | None:
    """Which of two answers is better, asked in both orders; a disagreement is a tie. None where an order has no verdict.

    Args:
        question: what was asked.
        first: one answer.
        second: another one.
        judge: who is asked.
        prompt: with `{question}`, `{first}`, `{second}`, and what else is told.
        told: by the names in the prompt.
    """
    forth = choice(judge(prompt.format(question=question, first=first, second=second, **told)))
    back = choice(judge(prompt.format(question=question, first=second, second=first, **told)))
    if forth is None or back is None:
        return None
    swapped: dict[Verdict, Verdict] = {"first": "second", "second": "first", "tie": "tie"}
    return forth if forth == swapped[back] else "tie"


def choice(said: str) -> Verdict | None:
    """The last `[[A]]`, `[[B]]` or `[[C]]`."""
    verdicts: dict[str, Verdict] = {"A": "first", "B": "second", "C": "tie"}
    found = _CHOICE.findall(said)
    return verdicts[found[-1]] if found else None
