"""What a policy says to queries and to gold questions, and what that is worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenmill.rlhf.conditional import Query
from tokenmill.rlhf.config import ProbeConfig
from tokenmill.rlhf.gold import GoldQuestion, GoldScore, score

if TYPE_CHECKING:
    from tokenmill.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answers:
    """What one policy said to all queries, and the reward for it."""

    prompts: list[list[int]]
    ids: list[list[int]]
    logprobs: list[list[float]]
    texts: list[str]
    rewards: list[float]

    def __getitem__(self, part: slice) -> "Answers":
        """The answers to some of the queries."""
        return Answers(self.prompts[part], self.ids[part], self.logprobs[part], self.texts[part], self.rewards[part])


@dataclass(frozen=True)
class Said:
    """What the models said to the same queries. Of equal models one speaks, under the first of their names."""

    by_name: dict[str, Answers]
    start: Answers
    """SFT's."""
    late: Answers
    """The policy's."""
    last: Answers
    """Of the policy that the rounds before handed on; SFT's before the first."""
    clean: list[Answers]
    """What patches may prefer, those closest to the late answers first."""

    @classmethod
    def of(cls, contents: Mapping[str, str], speak: Callable[[str], Answers]) -> "Said":
        """From name → content of the models, and what lets one of them speak."""
        first: dict[str, str] = {}
        for name, content in contents.items():
            first.setdefault(content, name)
        by_name = {name: speak(name) for name in first.values()}
        every = {name: by_name[first[content]] for name, content in contents.items()}
        start = every["sft"]
        clean = [every[name] for name in ("early", "sft") if name in every]
        return cls(by_name, start, every["policy"], every.get("before", start), clean)


def answer(model: Path, judge: Path, asked: Sequence[Query], words: "Tokenizer", config: ProbeConfig) -> Answers:
    """Sample one answer a query and judge it under its domain's prompt."""
    from tokenmill.model.chat import encode_prompt
    from tokenmill.model.folder import load_model
    from tokenmill.model.generation import generate

    prompts = [encode_prompt(query.prompt, words) for query in asked]
    drawn = generate(
        load_model(model), prompts, seed=config.seed, stop_ids=words.stop_ids, **config.sampling.model_dump()
    )
    ids = [generation.tokens for generation in drawn]
    return Answers(
        prompts=prompts,
        ids=ids,
        logprobs=[generation.logprobs for generation in drawn],
        texts=[words.decode(said, skip_special=True) for said in ids],
        rewards=scores(judge, asked, ids, words, config),
    )


def scores(
    judge: Path, asked: Sequence[Query], ids: Sequence[Sequence[int]], words: "Tokenizer", config: ProbeConfig
) -> list[float]:
    """What a reward model gives each answer under its query's domain."""
    from tokenmill.model.folder import load_model
    from tokenmill.model.modeling import InternLM2ForRewardModel
    from tokenmill.rlhf.conditional import reward_input
    from tokenmill.rlhf.scoring import reward_scores

    pairs = zip(asked, ids, strict=True)
    inputs = [reward_input(query, said, words, max_length=config.max_length) for query, said in pairs]
    return reward_scores(load_model(judge, InternLM2ForRewardModel), inputs).tolist()


def answer_gold(
    model: Path, questions: Sequence[GoldQuestion], words: "Tokenizer", config: ProbeConfig
) -> tuple[list[str], GoldScore]:
    """A policy's most likely answers to gold questions, and what they are worth."""
    from tokenmill.model.chat import encode_prompt
    from tokenmill.model.folder import load_model
    from tokenmill.model.generation import generate

    prompts = [encode_prompt(question.prompt, words) for question in questions]
    length = config.sampling.max_new_tokens
    drawn = generate(load_model(model), prompts, max_new_tokens=length, temperature=0, stop_ids=words.stop_ids)
    ids = [generation.tokens for generation in drawn]
    texts = [words.decode(said, skip_special=True) for said in ids]
    return texts, score(questions, texts, ids, words.im_end_id, frozenset(words.special.values()))
