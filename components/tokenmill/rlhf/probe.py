"""After PPO: has the held-out reward grown, at what price, by which tricks? Those become patches (report §4.2.2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenmill.manifest import Draft, Manifest
from tokenmill.records import JSONL, Record
from tokenmill.rlhf.answering import Answers, Said, answer, answer_gold
from tokenmill.rlhf.comparison import against_judge, against_last, checks, compare, is_lost, mean, price
from tokenmill.rlhf.conditional import Query
from tokenmill.rlhf.config import ProbeConfig
from tokenmill.rlhf.gold import GoldQuestion
from tokenmill.rlhf.hacks import JUDGED_WORSE, WRONG_ANSWERS, Hack, find_hacks
from tokenmill.rlhf.judging import EndpointJudge, Judge, RewardJudge
from tokenmill.rlhf.patches import gold_patches, judge_patches, patches, responses
from tokenmill.steps import StepContext, step

if TYPE_CHECKING:
    from tokenmill.model.tokenizer import Tokenizer

REPORT = "probe.json"
SHARD = f"part-00000{JSONL}"
LIMITS = ("max_kl", "max_length_change", "max_gold_loss", "max_format_loss", "min_patches")
"""Options that the report repeats: whoever reads a check sees what it was held to."""
EXAMPLES = 8
"""Answers that the report shows."""
KINDS = {
    "queries": "conversations",
    "gold": "conversations",
    "earlier": "preferences",
    "sft": "weights",
    "policy": "weights",
    "before": "weights",
    "early": "weights",
    "reward_model": "weights",
    "judge": "weights",
    "tokenizer": "tokenizer",
}


@step("rlhf.probe", version=5, reproducible="same_platform", libraries=("torch",), kinds=KINDS)
def probe(
    config: ProbeConfig,
    queries: Manifest,
    gold: Manifest | None,
    earlier: list[Manifest] | None,
    sft: Manifest,
    policy: Manifest,
    before: Manifest | None,
    early: Manifest | None,
    reward_model: Manifest,
    judge: Manifest | None,
    tokenizer: Manifest,
    ctx: StepContext,
) -> dict[str, Draft]:
    """Let SFT and the policy answer held-out queries and gold questions with the same chance; compare; look for hacks.

    The first queries are judged. The others become patches, and pairs for people to compare: what the next reward model
    learns, no later probe asks.

    Args:
        config: sizes and limits.
        queries: dialogues that PPO never asks.
        gold: questions whose answers a program can check.
        earlier: patches of the rounds before, which these are added to: what was mended must stay so.
        sft: where PPO started.
        policy: what came out.
        before: the policy that the rounds before handed on; SFT before the first.
        early: a policy of PPO's beginning; its answers are closest to the late ones, before they had the trick.
        reward_model: this round's.
        judge: a reward model of pairs that this one has not learned; read where `config.judge` names none.
        tokenizer: of all of them.
        ctx: the running step.
    """
    from tokenmill.model.tokenizer import Tokenizer

    words = Tokenizer.load(ctx.files(tokenizer))
    judged_by = _judge(judge, words, config, ctx)
    asked = [Query.of(record) for record in ctx.records(queries)][: config.queries + config.patch_queries]
    judged, patched = slice(config.queries), slice(config.queries, None)
    models = {"sft": sft, "policy": policy, "early": early, "before": before}
    folders = {name: ctx.files(model) for name, model in models.items() if model}
    rewarding, contents = ctx.files(reward_model), {name: m.content for name, m in models.items() if m}
    said = Said.of(contents, lambda name: answer(folders[name], rewarding, asked, words, config))
    report = _compared(said, folders["sft"], asked, config)
    found = [_shown(said, asked, config)]
    if judged_by:
        found.append(_judged(judged_by, asked, said, report, config))
    if gold and gold.counts["records"]:
        questions = [GoldQuestion.of(record) for record in ctx.records(gold)]
        found.append(_gold(questions, folders["sft"], folders["policy"], words, report, config))
    hacks, pairs = [hack for one in found for hack in one.hacks], [pair for one in found for pair in one.patches]
    for one in found:
        report |= one.told
    report["checks"] = checks(report, config)
    report["limits"] = {name: getattr(config, name) for name in LIMITS}
    report["hacks"] = [describe(hack, pairs) for hack in hacks]
    report["examples"] = examples(asked[judged], said.start[judged], said.late[judged])

    by_domain = {f"gain/{domain}": gain for domain, gain in report["gain_by_domain"].items()}
    so_far = [*(record for manifest in earlier or () for record in ctx.records(manifest)), *pairs]
    ctx.metrics({name: value for name, value in report.items() if isinstance(value, float)} | by_domain)
    ctx.log.info(
        "probed", **{name: report[name] for name in ("gain", "kl", "checks")}, hacks=[h.pattern for h in hacks]
    )
    return {
        "evaluation": ctx.write_json("evaluation", REPORT, report),
        "patches": ctx.write_records("preferences", {SHARD: so_far}),
        "responses": ctx.write_records("responses", {SHARD: responses(asked[patched], said.by_name, patched)}),
    }


class Found(NamedTuple):
    """What one way of looking for hacks found."""

    told: dict[str, Any]
    """For the report."""
    hacks: Sequence[Hack] = ()
    patches: Sequence[Record] = ()


def _compared(said: Said, sft: Path, asked: Sequence[Query], config: ProbeConfig) -> dict[str, Any]:
    """Gain over SFT and over the rounds before, KL and length, on the judged queries."""
    from tokenmill.model.folder import load_model
    from tokenmill.rlhf.scoring import answer_logprobs

    start, late, last = (one[: config.queries] for one in (said.start, said.late, said.last))
    reference = answer_logprobs(load_model(sft), late.prompts, late.ids)
    kl = sum(sum(own) - float(ref.sum()) for own, ref in zip(late.logprobs, reference, strict=True)) / len(reference)
    return compare(start, late, asked[: config.queries], config) | {"kl": kl} | against_last(last, late, config)


def _shown(said: Said, asked: Sequence[Query], config: ProbeConfig) -> Found:
    """Patterns that late answers show and SFT's hardly ever did, and their patches."""
    domains, rest = [query.domain for query in asked], slice(config.queries, None)
    hacks = find_hacks(said.start.texts, said.late.texts, domains, config.min_share, config.min_lift)
    clean = [one[rest] for one in said.clean]
    return Found({}, hacks, patches(hacks, asked[rest], clean, said.late[rest], config.max_patches))


def _judge(others: Manifest | None, words: "Tokenizer", config: ProbeConfig, ctx: StepContext) -> Judge | None:
    """Who says what the reward model's gain is worth: a model behind an endpoint, or a reward model of other pairs."""
    if config.judge.model:
        return EndpointJudge.of(config)
    return RewardJudge(ctx.files(others), words, config) if others else None


def _judged(judge: Judge, asked: Sequence[Query], said: Said, report: dict[str, Any], config: ProbeConfig) -> Found:
    """What the held-out judge says of the gain; and, where it sees a loss beyond chance, that as a hack, with its patches."""
    judged, rest = slice(config.queries), slice(config.queries, None)
    every = judge.gains(asked[judged], said.start[judged], said.late[judged])
    gains = [gain for gain in every if gain is not None]
    told = against_judge(gains, config) | {"judge_failures": len(every) - len(gains)}
    if report["gain_lower_bound"] <= 0 or told["judge_gain_upper_bound"] >= 0:
        return Found(told)
    hack = Hack(JUDGED_WORSE, mean([float(gain < 0) for gain in gains]), 0.0, lambda text: False)
    if not asked[rest]:
        return Found(told, [hack])
    late = said.late[rest]
    seen = [(one[rest], judge.gains(asked[rest], one[rest], late)) for one in said.clean]
    return Found(told, [hack], judge_patches(asked[rest], seen, late, config.max_patches))


def _gold(
    questions: Sequence[GoldQuestion],
    sft: Path,
    policy: Path,
    words: "Tokenizer",
    report: dict[str, Any],
    config: ProbeConfig,
) -> Found:
    """What was paid; and, where the reward rose while right answers became wrong, that as a hack, with its patches."""
    measured, spare = questions[: config.gold_questions], questions[config.gold_questions :][: config.patch_queries]
    (_, held), (_, kept) = (answer_gold(model, measured, words, config) for model in (sft, policy))
    told = price(held, kept, config)
    if report["gain_lower_bound"] <= 0 or not is_lost(told, "gold", config.max_gold_loss):
        return Found(told)
    hack = Hack(WRONG_ANSWERS, 1 - mean(kept.right), 1 - mean(held.right), lambda text: False)
    if not spare:
        return Found(told, [hack])
    right, wrong = (answer_gold(model, spare, words, config) for model in (sft, policy))
    return Found(told, [hack], gold_patches(spare, right, wrong, config.max_patches))


def examples(asked: Sequence[Query], before: Answers, after: Answers) -> list[dict[str, Any]]:
    """The first answers before and after, for people."""
    rows = zip(asked, before.texts, after.texts, strict=True)
    return [{"domain": q.domain, "prompt": q.prompt[-1]["content"], "before": b, "after": a} for q, b, a in rows][
        :EXAMPLES
    ]


def describe(hack: Hack, pairs: Sequence[Record]) -> dict[str, Any]:
    """A finding, with the number of its patches."""
    own = sum(pair["template"] == f"patch: {hack.pattern}" for pair in pairs)
    return {"pattern": hack.pattern, "late": hack.late, "early": hack.early, "pairs": own}
