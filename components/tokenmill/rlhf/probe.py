"""After PPO: has the held-out reward grown, at what price, by which tricks? Those become patches (report §4.2.2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenmill.manifest import Draft, Manifest
from tokenmill.records import JSONL, Record
from tokenmill.rlhf.answering import Answers, answer, answer_gold, scores
from tokenmill.rlhf.comparison import against_judge, against_last, checks, compare, is_lost, mean, price
from tokenmill.rlhf.conditional import Query
from tokenmill.rlhf.config import ProbeConfig
from tokenmill.rlhf.gold import GoldQuestion
from tokenmill.rlhf.hacks import JUDGED_WORSE, WRONG_ANSWERS, Hack, find_hacks
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


@step("rlhf.probe", version=4, reproducible="same_platform", libraries=("torch",), kinds=KINDS)
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
        judge: a reward model of pairs that this one has not learned.
        tokenizer: of all of them.
        ctx: the running step.
    """
    from tokenmill.model.folder import load_model
    from tokenmill.model.tokenizer import Tokenizer
    from tokenmill.rlhf.scoring import answer_logprobs

    words = Tokenizer.load(ctx.files(tokenizer))
    asked = [Query.of(record) for record in ctx.records(queries)][: config.queries + config.patch_queries]
    rewarding, judged, patched = ctx.files(reward_model), slice(config.queries), slice(config.queries, None)
    models = {"sft": sft, "policy": policy, "early": early, "before": before}
    names: dict[str, str] = {}  # of equal models one speaks, under the first of their names
    for name, model in models.items():
        if model:
            names.setdefault(model.content, name)
    folders = {model.content: ctx.files(model) for model in models.values() if model}
    said = {content: answer(folder, rewarding, asked, words, config) for content, folder in folders.items()}
    start, late = said[sft.content], said[policy.content]
    last = said[before.content] if before else start
    clean = [said[one.content] for one in (early, sft) if one]

    reference = answer_logprobs(load_model(folders[sft.content]), late.prompts[judged], late.ids[judged])
    spent = zip(late.logprobs[judged], reference, strict=True)
    kl = sum(sum(own) - float(ref.sum()) for own, ref in spent) / len(reference)
    report = compare(start[judged], late[judged], asked[judged], config) | {"kl": kl}
    report |= against_last(last[judged], late[judged], config)
    hacks = find_hacks(start.texts, late.texts, [q.domain for q in asked], config.min_share, config.min_lift)
    pairs = patches(hacks, asked[patched], [one[patched] for one in clean], late[patched], config.max_patches)
    if judge:
        told, unpaid, more = _judged(ctx.files(judge), asked, start, clean, late, words, report, config)
        report, hacks, pairs = report | told, hacks + unpaid, pairs + more
    if gold and gold.counts["records"]:
        questions = [GoldQuestion.of(record) for record in ctx.records(gold)]
        told, unpaid, more = _gold(questions, folders[sft.content], folders[policy.content], words, report, config)
        report, hacks, pairs = report | told, hacks + unpaid, pairs + more
    report["checks"] = checks(report, config)
    report["limits"] = {name: getattr(config, name) for name in LIMITS}
    report["hacks"] = [describe(hack, pairs) for hack in hacks]
    report["examples"] = examples(asked[judged], start[judged], late[judged])

    by_domain = {f"gain/{domain}": gain for domain, gain in report["gain_by_domain"].items()}
    so_far = [*(record for manifest in earlier or () for record in ctx.records(manifest)), *pairs]
    ctx.metrics({name: value for name, value in report.items() if isinstance(value, float)} | by_domain)
    ctx.log.info("probed", gain=report["gain"], kl=kl, checks=report["checks"], hacks=[h.pattern for h in hacks])
    by_name = {names[content]: answers for content, answers in said.items()}
    return {
        "evaluation": ctx.write_json("evaluation", REPORT, report),
        "patches": ctx.write_records("preferences", {SHARD: so_far}),
        "responses": ctx.write_records("responses", {SHARD: responses(asked[patched], by_name, patched)}),
    }


def _judged(
    judge: Path,
    asked: Sequence[Query],
    start: Answers,
    clean: Sequence[Answers],
    late: Answers,
    words: "Tokenizer",
    report: dict[str, Any],
    config: ProbeConfig,
) -> tuple[dict[str, Any], list[Hack], list[Record]]:
    """What another reward model says of the gain; and, where its own falls beyond chance, that as a hack, with its patches."""
    before, after, *others = (scores(judge, asked, one.ids, words, config) for one in (start, late, *clean))
    told = against_judge(before[: config.queries], after[: config.queries], config)
    if report["gain_lower_bound"] <= 0 or told["judge_gain_upper_bound"] >= 0:
        return told, [], []
    worse = [then > now for then, now in zip(before, after, strict=True)]
    hack = Hack(JUDGED_WORSE, mean([float(lost) for lost in worse]), 0.0, lambda text: False)
    rest = slice(config.queries, None)
    seen = [(one[rest], found[rest]) for one, found in zip(clean, others, strict=True)]
    return told, [hack], judge_patches(asked[rest], seen, (late[rest], after[rest]), config.max_patches)


def _gold(
    questions: Sequence[GoldQuestion],
    sft: Path,
    policy: Path,
    words: "Tokenizer",
    report: dict[str, Any],
    config: ProbeConfig,
) -> tuple[dict[str, Any], list[Hack], list[Record]]:
    """What was paid; and, where the reward rose while right answers became wrong, that as a hack, with its patches."""
    measured, spare = questions[: config.gold_questions], questions[config.gold_questions :][: config.patch_queries]
    (_, held), (_, kept) = (answer_gold(model, measured, words, config) for model in (sft, policy))
    told = price(held, kept, config)
    if report["gain_lower_bound"] <= 0 or not is_lost(told, "gold", config.max_gold_loss):
        return told, [], []
    hack = Hack(WRONG_ANSWERS, 1 - mean(kept.right), 1 - mean(held.right), lambda text: False)
    if not spare:
        return told, [hack], []
    right, wrong = (answer_gold(model, spare, words, config) for model in (sft, policy))
    return told, [hack], gold_patches(spare, right, wrong, config.max_patches)


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
