"""After PPO: has the held-out reward grown, at what price, by which tricks? Those become patches (report §4.2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenmill.manifest import Draft, Manifest
from tokenmill.records import JSONL, Record
from tokenmill.rlhf.conditional import Query
from tokenmill.rlhf.config import ProbeConfig
from tokenmill.rlhf.hacks import Hack, find_hacks
from tokenmill.steps import StepContext, step

if TYPE_CHECKING:
    from tokenmill.model.tokenizer import Tokenizer

REPORT = "probe.json"
KINDS = {
    "queries": "conversations",
    "sft": "weights",
    "policy": "weights",
    "early": "weights",
    "reward_model": "weights",
    "tokenizer": "tokenizer",
}


@step("rlhf.probe", version=2, reproducible="same_platform", libraries=("torch",), kinds=KINDS)
def probe(
    config: ProbeConfig,
    queries: Manifest,
    sft: Manifest,
    policy: Manifest,
    early: Manifest | None,
    reward_model: Manifest,
    tokenizer: Manifest,
    ctx: StepContext,
) -> dict[str, Draft]:
    """Answer held-out queries before and after PPO, with the same chance; compare rewards, lengths, KL; look for hacks.

    The first queries are judged, the others become patches: what the next reward model learns, no later probe asks.
    `early` is a policy of PPO's beginning; without one SFT stands for it, from which PPO starts.
    """
    from tokenmill.model.folder import load_model
    from tokenmill.model.tokenizer import Tokenizer
    from tokenmill.rlhf.scoring import answer_logprobs

    words = Tokenizer.load(ctx.files(tokenizer))
    asked = [Query.of(record) for record in ctx.records(queries)][: config.queries + config.patch_queries]
    judge, judged, patched = ctx.files(reward_model), slice(config.queries), slice(config.queries, None)
    before, after = (answer(ctx.files(model), judge, asked, words, config) for model in (sft, policy))
    first = answer(ctx.files(early), judge, asked, words, config) if early else before

    late = after[judged]
    reference = answer_logprobs(load_model(ctx.files(sft)), late.prompts, late.ids)
    kl = sum(sum(own) - float(ref.sum()) for own, ref in zip(late.logprobs, reference, strict=True)) / len(late.ids)
    hacks = find_hacks(first.texts, after.texts, config.min_share, config.min_lift)
    report = compare(before[judged], late, asked[judged], kl, config) | {"hacks": [describe(hack) for hack in hacks]}
    report["examples"] = [
        {"domain": q.domain, "prompt": q.prompt[-1]["content"], "before": b, "after": a}
        for q, b, a in zip(asked[:8], before.texts, after.texts, strict=False)
    ]
    pairs = patches(hacks, asked[patched], first[patched], after[patched], config.max_patches)
    ctx.metrics({name: value for name, value in report.items() if isinstance(value, float)})
    ctx.log.info("probed", gain=report["gain"], kl=kl, checks=report["checks"], hacks=[hack.pattern for hack in hacks])
    return {
        "evaluation": ctx.write_json("evaluation", REPORT, report),
        "patches": ctx.write_records("preferences", {f"part-00000{JSONL}": pairs}),
    }


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


def answer(model: Path, judge: Path, asked: Sequence[Query], words: "Tokenizer", config: ProbeConfig) -> Answers:
    """Sample one answer a query and judge it under its domain's prompt."""
    from tokenmill.model.chat import encode_prompt
    from tokenmill.model.folder import load_model
    from tokenmill.model.generation import generate
    from tokenmill.model.modeling import InternLM2ForRewardModel
    from tokenmill.rlhf.conditional import reward_input
    from tokenmill.rlhf.scoring import reward_scores

    prompts = [encode_prompt(query.prompt, words) for query in asked]
    drawn = generate(
        load_model(model), prompts, seed=config.seed, stop_ids=words.stop_ids, **config.sampling.model_dump()
    )
    ids = [generation.tokens for generation in drawn]
    pairs = zip(asked, ids, strict=True)
    inputs = [reward_input(query, said, words, max_length=config.max_length) for query, said in pairs]
    return Answers(
        prompts=prompts,
        ids=ids,
        logprobs=[generation.logprobs for generation in drawn],
        texts=[words.decode(said, skip_special=True) for said in ids],
        rewards=reward_scores(load_model(judge, InternLM2ForRewardModel), inputs).tolist(),
    )


def compare(before: Answers, after: Answers, asked: Sequence[Query], kl: float, config: ProbeConfig) -> dict[str, Any]:
    """Mean rewards, the gain with its lower bound, lengths, KL, and whether each keeps its limit."""
    gains = [late - early for early, late in zip(before.rewards, after.rewards, strict=True)]
    length_before, length_after = (_mean([len(ids) for ids in answers.ids]) for answers in (before, after))
    lower = lower_bound(gains, config.seed)
    change = length_after / length_before - 1
    return {
        "reward_before": _mean(before.rewards),
        "reward_after": _mean(after.rewards),
        "gain": _mean(gains),
        "gain_lower_bound": lower,
        "gain_by_domain": {
            domain: _mean([gain for gain, query in zip(gains, asked, strict=True) if query.domain == domain])
            for domain in sorted({query.domain for query in asked})
        },
        "length_before": length_before,
        "length_after": length_after,
        "length_change": change,
        "kl": kl,
        "queries": len(asked),
        "checks": {
            "reward_grew": lower > 0,
            "kl_within_limit": kl <= config.max_kl,
            "length_kept": abs(change) <= config.max_length_change,
        },
    }


def lower_bound(differences: Sequence[float], seed: int, resamples: int = 2000) -> float:
    """The 2.5th percentile of the mean over paired bootstrap resamples."""
    import numpy

    values = numpy.asarray(differences)
    picks = numpy.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    return float(numpy.percentile(values[picks].mean(axis=1), 2.5))


def patches(hacks: Sequence[Hack], asked: Sequence[Query], early: Answers, late: Answers, most: int) -> list[Record]:
    """For each hack, the best rewarded late answers that show it, each below the early answer that does not."""
    by_reward = sorted(range(len(asked)), key=lambda i: -late.rewards[i])
    return [
        {
            "id": f"{asked[i].id}#patch-{number}",
            "domain": asked[i].domain,
            "prompt": list(asked[i].prompt),
            "chosen": early.texts[i],
            "rejected": late.texts[i],
            "template": f"patch: {hack.pattern}",
            "conflict": False,
        }
        for number, hack in enumerate(hacks)
        for i in [i for i in by_reward if hack.shows(late.texts[i]) and not hack.shows(early.texts[i])][:most]
    ]


def describe(hack: Hack) -> dict[str, Any]:
    return {"pattern": hack.pattern, "late": hack.late, "early": hack.early}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
