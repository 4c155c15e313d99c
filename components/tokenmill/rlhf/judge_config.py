"""Options of a held-out judge behind an endpoint: what it is and is asked is identity, where it is is not."""

from string import Formatter

from pydantic import Field, field_validator

from tokenmill.config import Section

PROMPT = """Two assistants have answered the same question. Judge which answer is better by the wish below, and by it alone.
Neither the order in which they stand nor their length is a merit. Explain briefly, then give your verdict in this very form:
[[A]] if A is better, [[B]] if B is better, [[C]] if neither is.

[Wish]
{wish}

[Question]
{question}

[Answer of A]
{first}
[End of A]

[Answer of B]
{second}
[End of B]"""
"""Our words for MT-bench's form (Zheng et al. 2023), with the wish that the reward model judges by."""
_MUST, _MAY = {"question", "first", "second"}, {"wish"}


class JudgeConfig(Section):
    """Who judges in place of a reward model of other pairs, and how."""

    model: str = Field(
        "",
        description="name in requests of a chat model behind an OpenAI-compatible endpoint; none: the held-out judge is a "
        "reward model of other pairs, if collect_preferences.judge_share gives it any",
    )
    prompt: str = Field(
        PROMPT,
        description="what it is asked, with {question}, {first}, {second} and, if it shall judge by it, {wish}: the domain's "
        "conditional prompt; must lead to [[A]], [[B]] or [[C]]",
    )
    max_tokens: int = Field(1_024, ge=1, description="tokens of its explanation and verdict at most; ours")
    max_ungraded: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of pairs of answers that it may give no verdict on; they are counted and left out; ours",
    )

    @field_validator("prompt")
    @classmethod
    def _both_answers_are_shown(cls, prompt: str) -> str:
        try:
            named = {name for _, name, _, _ in Formatter().parse(prompt) if name is not None}
        except ValueError as error:
            raise ValueError(f"{error}; a brace that is text is written twice") from None
        if missing := _MUST - named:
            raise ValueError(f"must name {_listed(missing)}")
        if unknown := named - _MUST - _MAY:
            raise ValueError(f"names {_listed(unknown)}, and nothing is known by that name")
        return prompt


def _listed(names: set[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names))
