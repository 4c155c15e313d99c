"""The held-out judge: who says what the reward model's gain is worth, and has learned none of its pairs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tokenmill.errors import InputError, UserError
from tokenmill.rlhf.answering import Answers, scores
from tokenmill.rlhf.conditional import Query
from tokenmill.rlhf.config import ProbeConfig
from tokenmill.rlhf.judge_config import JudgeConfig

if TYPE_CHECKING:
    from tokenmill.judge import Endpoint
    from tokenmill.model.tokenizer import Tokenizer


class Judge(Protocol):
    """Compares two policies' answers to the same queries."""

    def gains(self, asked: Sequence[Query], before: Answers, after: Answers) -> list[float | None]:
        """How much better each answer of `after` is than that of `before`; None where the judge gave no verdict."""


@dataclass(frozen=True)
class RewardJudge:
    """A reward model of other pairs; a gain is a difference of its scores."""

    model: Path
    words: "Tokenizer"
    config: ProbeConfig

    def gains(self, asked: Sequence[Query], before: Answers, after: Answers) -> list[float | None]:
        then, now = (scores(self.model, asked, one.ids, self.words, self.config) for one in (before, after))
        return [late - early for early, late in zip(then, now, strict=True)]


@dataclass(frozen=True)
class EndpointJudge:
    """A chat model behind an endpoint; a gain is 1 where it prefers the later answer, -1 where the earlier, 0 for a tie."""

    ask: "Endpoint"
    config: JudgeConfig
    concurrency: int

    @classmethod
    def of(cls, config: ProbeConfig) -> "EndpointJudge":
        from tokenmill.judge import Endpoint

        judge, how = config.judge, config.execution.judge
        if not how.url:
            raise InputError(f"nobody says where the judge {judge.model} is: set rlhf.probe.execution.judge.url")
        return cls(Endpoint.at(judge.model, judge.max_tokens, how), judge, how.concurrency)

    def gains(self, asked: Sequence[Query], before: Answers, after: Answers) -> list[float | None]:
        """As every judge's. Equal answers are a tie that it is not asked about.

        Raises:
            UserError: it failed on more pairs than it may; the rest is not asked then.
        """
        gains: list[float | None] = []
        failures, most = 0, self.config.max_ungraded * len(asked)
        with ThreadPoolExecutor(self.concurrency) as pool:
            for gain, why in pool.map(self._gain, asked, before.texts, after.texts):
                gains.append(gain)
                failures += gain is None
                if failures > most:  # and `map`, when it is left, cancels what waits
                    raise UserError(
                        f"the judge gave no verdict on {failures} of {len(gains)} pairs of answers, and may on "
                        f"{self.config.max_ungraded:.0%} of {len(asked)} (rlhf.probe.judge.max_ungraded): {why}"
                    )
        return gains

    def _gain(self, query: Query, before: str, after: str) -> tuple[float | None, str]:
        """And why there is none."""
        from tokenmill.judge import compare

        if before == after:
            return 0.0, ""
        try:
            wish = query.condition or ""
            verdict = compare(_dialogue(query), before, after, self.ask, self.config.prompt, wish=wish)
        except UserError as refused:
            return None, str(refused)
        if verdict is None:
            return None, "it did not end in [[A]], [[B]] or [[C]]"
        return {"first": -1.0, "tie": 0.0, "second": 1.0}[verdict], ""


def _dialogue(query: Query) -> str:
    """What was asked, as people read it: with who said what where it is more than a question."""
    if len(query.prompt) == 1:
        return str(query.prompt[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in query.prompt)
