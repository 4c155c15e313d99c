"""Conversations and people's own pairs → preferences and queries.

A request that was answered in two styles gives two pairs that contradict each other: whoever wants help prefers the
direct answer, whoever wants no harm the careful one. Only the reward model's system prompt tells which is meant.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest, canonical, sha256
from tokenmill.model.conversation import asked_first
from tokenmill.records import JSONL, Record
from tokenmill.rlhf.config import CollectPreferencesConfig
from tokenmill.rlhf.gold import form_of
from tokenmill.steps import StepContext, step

SHARD = f"part-00000{JSONL}"
PREFERRED = {"helpful": "direct", "harmless": "careful"}
"""Which of the two styles a domain prefers."""
KINDS = {"conversations": "conversations", "own": "preferences", "tokenizer": "tokenizer"}


@step("rlhf.collect_preferences", version=8, kinds=KINDS)
def collect_preferences(
    config: CollectPreferencesConfig,
    conversations: Manifest,
    own: Manifest | None,
    tokenizer: Manifest,
    ctx: StepContext,
) -> dict[str, Draft]:
    """Pairs for the reward model and its judge, queries for PPO, those of some templates held out from all; the gold set.

    `own` pairs (`rlhf.read_preferences`) are among them; of their first questions some are held out, by their hash.

    Held-out queries of held-out templates come first, to be judged by. Those of the others that are held out too follow: what
    becomes of them may be learned.

    The gold set is of what SFT has learned from, and RLHF may not unlearn: evaluation's questions stay unseen by the
    rounds, which it judges afterwards.
    """
    from tokenmill.model.tokenizer import Tokenizer

    asked = _by_request(ctx.records(conversations))
    answered = {request: styles for request, styles in asked.items() if set(styles) == set(PREFERRED.values())}
    templates = sorted({styles["direct"]["template"] for styles in answered.values()})
    brought = list(ctx.records(own)) if own else []
    if len(templates) <= config.heldout_templates and not (brought and not templates):
        raise InputError(
            f"rlhf.collect_preferences: {len(templates)} templates of requests answered in both styles, but "
            f"{config.heldout_templates} are to be held out: raise sft.prepare.requests, or hold out fewer"
        )
    heldout = set(sorted(templates, key=lambda name: sha256(name.encode()))[: config.heldout_templates])
    words = Tokenizer.load(ctx.files(tokenizer))
    drafts = {}
    asks: defaultdict[str, list[dict[str, Record]]] = defaultdict(list)
    for styles in answered.values():
        asks["heldout" if styles["direct"]["template"] in heldout else _learner(_first(styles), config)].append(styles)
    own_pairs: defaultdict[str, list[Record]] = defaultdict(list)
    kept_back = _kept_back(brought, config.heldout_own)
    for pair in brought:
        question = asked_first(pair["prompt"])
        own_pairs["heldout" if question in kept_back else _learner(question, config)].append(pair)
    for role in ("train", "judge", "heldout"):
        made = list(_pairs(asks[role], config))
        pairs = made + own_pairs[role]
        counts = Counter(f"records/{pair['domain']}" for pair in pairs)
        counts["conflicts"] = sum(pair["conflict"] for pair in pairs)
        facts = {"mean_tokens": _mean_tokens(made, words, config.max_length_gap)} if made else {}
        drafts[role] = ctx.write_records("preferences", {SHARD: pairs}, counts=counts, facts=facts)
    gold = [_gold(record) for record in ctx.records(conversations) if "answer" in record]
    drafts["gold"] = ctx.write_records("conversations", {SHARD: sorted(gold, key=_hash)})
    unseen, seen = _queries(asked.values(), heldout, brought, kept_back, config)
    queries, edge = unseen + seen, max(len(unseen), round(config.heldout_queries * (len(unseen) + len(seen))))
    for role, rows in (("heldout_queries", queries[:edge]), ("queries", queries[edge:])):
        judged = {"of_heldout_templates": len(unseen)} if role == "heldout_queries" else {}
        drafts[role] = ctx.write_records("conversations", {SHARD: rows}, counts=judged)
    return drafts


def _by_request(conversations: Iterable[Record]) -> dict[str, dict[str, Record]]:
    """Request id → style → the conversation that answers it so."""
    found: dict[str, dict[str, Record]] = {}
    for record in conversations:
        if record.get("style") in PREFERRED.values():
            found.setdefault(record["id"].partition("#")[0], {})[record["style"]] = record
    return dict(sorted(found.items()))


def _pairs(requests: Sequence[dict[str, Record]], config: CollectPreferencesConfig) -> Iterator[Record]:
    """Two contradicting pairs a request, and for some of them an answer against a broken copy of itself."""
    for styles in requests:
        request = styles["direct"]["id"].partition("#")[0]
        answers = {style: record["messages"][-1]["content"] for style, record in styles.items()}
        common = {"prompt": styles["direct"]["messages"][:-1], "template": styles["direct"]["template"]}
        draw = random.Random(f"{config.seed} {request}")
        for domain, style in PREFERRED.items():
            other = next(text for name, text in answers.items() if name != style)
            yield _pair(f"{request}#{domain}", domain, answers[style], other, common, conflict=True)
            if draw.random() < config.broken_share:
                broken = _broken(answers[style], draw)
                yield _pair(f"{request}#{domain}-broken", domain, answers[style], broken, common, conflict=False)


def _pair(identity: str, domain: str, chosen: str, rejected: str, common: dict[str, Any], *, conflict: bool) -> Record:
    return {"id": identity, "domain": domain, "chosen": chosen, "rejected": rejected, "conflict": conflict} | common


def _broken(text: str, draw: random.Random) -> str:
    """The answer with its words in disorder, some of them missing, or some said twice; it begins and ends as it did.

    Were only disorder to be rejected, a good ending would do for a good answer, and PPO would find that out.
    """
    first, *middle, last = words if len(words := text.split()) > 1 else (*words, "")
    half = max(1, len(middle) // 2)
    start = draw.randrange(max(1, len(middle) - half + 1))
    kind = draw.choice(("disorder", "missing", "twice"))
    if kind == "disorder" and len(set(middle)) > 1:
        shuffled = middle
        while shuffled == middle:
            shuffled = draw.sample(middle, len(middle))
        middle = shuffled
    elif kind == "missing" and middle:
        middle = middle[:start] + middle[start + half :]
    else:
        middle = middle[: start + half] + middle[start : start + half] + middle[start + half :] or [first]
    return " ".join((first, *middle, last)).strip()


def _queries(
    asked: Iterable[Mapping[str, Record]],
    heldout: Collection[str],
    brought: Iterable[Record],
    kept_back: Collection[str],
    config: CollectPreferencesConfig,
) -> tuple[list[Record], list[Record]]:
    """What can be asked: of held-out templates and questions, and of the others; each once, shuffled.

    The judge's questions are never asked: patches and people's pairs come of what was asked, and every round learns them.
    """
    unseen, seen = dict[str, Record](), dict[str, Record]()
    for query in (*map(_query, asked), *map(_own_query, brought)):
        question = asked_first(query["messages"])
        if query["template"] in heldout or question in kept_back:
            unseen[query["id"]] = query
        elif _learner(question, config) != "judge":
            seen[query["id"]] = query
    return sorted(unseen.values(), key=_hash), sorted(seen.values(), key=_hash)


def _query(styles: Mapping[str, Record]) -> Record:
    record = next(iter(styles.values()))
    kept = {key: record[key] for key in ("domain", "template", "source")}
    return kept | {"id": record["id"].partition("#")[0], "messages": record["messages"][:-1]}


def _first(styles: Mapping[str, Record]) -> str:
    return asked_first(styles["direct"]["messages"])


def _learner(question: str, config: CollectPreferencesConfig) -> str:
    """Who learns the pairs of a question that is not held out: every round's reward model, or the one that judges them."""
    return "judge" if _share(f"judge {question}") < config.judge_share else "train"


def _share(text: str) -> float:
    """A number in [0, 1) that only the text decides."""
    return int(sha256(text.strip().lower().encode())[:8], 16) / 2**32


def _own_query(pair: Record) -> Record:
    """What a pair of people's own answers; pairs of one prompt and domain are one query."""
    asked = {"messages": pair["prompt"]} | {key: pair[key] for key in ("domain", "condition") if key in pair}
    identity = f"{pair['source']}/{sha256(canonical(asked))[:16]}"
    return asked | {"id": identity, "template": pair["template"], "source": pair["source"]}


def _kept_back(brought: Sequence[Record], share: float) -> set[str]:
    """First questions of people's own pairs that are held out, at least one: those whose hashes are lowest.

    Raises:
        InputError: all pairs are of one question.
    """
    questions = sorted({asked_first(pair["prompt"]) for pair in brought}, key=lambda text: (_share(text), text))
    if len(questions) == 1:
        raise InputError(
            f"rlhf.collect_preferences: all {len(brought)} own pairs are of one question: one is held out, none is left"
        )
    return set(questions[: max(1, round(share * len(questions)))])


def _gold(record: Record) -> Record:
    """A question whose answer can be checked, without the answer that was given to it."""
    kept = {key: record[key] for key in ("id", "answer", "source")}
    form = form_of(record["messages"][-1]["content"])
    return kept | {"domain": "math", "messages": record["messages"][:-1], "form": form}


def _hash(record: Record) -> str:
    """To order records by: a shuffle that needs no seed."""
    return sha256(record["id"].encode())


def _mean_tokens(pairs: Sequence[Record], words: Any, max_gap: float) -> dict[str, float]:
    """Mean tokens of chosen and rejected answers; were they far apart, length alone would tell them apart."""
    means = {}
    for side in ("chosen", "rejected"):
        lengths = [len(ids) for ids in words.encode_batch([pair[side] for pair in pairs])]
        means[side] = sum(lengths) / len(lengths)
    if abs(means["chosen"] / means["rejected"] - 1) > max_gap:
        raise InputError(
            f"rlhf.collect_preferences: chosen answers have {means['chosen']:.1f} tokens, rejected ones "
            f"{means['rejected']:.1f}: a reward model would learn the length (max_length_gap={max_gap})"
        )
    return means
