"""Questions for every checkpoint of a run: drawn once, from what no model is trained on."""

from collections import defaultdict
from collections.abc import Iterable

from tokenmill.evaluation import questions as q
from tokenmill.evaluation.config import PrepareConfig
from tokenmill.evaluation.safety import requests
from tokenmill.manifest import Draft, Manifest
from tokenmill.overlap import OverlapConfig, OverlapIndex
from tokenmill.records import Record
from tokenmill.steps import StepContext, step


@step(
    "evaluation.prepare",
    version=7,
    kinds={"corpus": "corpus", "tokens": "tokens", "reference": "corpus", "conversations": "conversations"},
)
def prepare(
    config: PrepareConfig,
    corpus: Manifest,
    tokens: Manifest,
    reference: Manifest | None,
    conversations: Manifest | None,
    ctx: StepContext,
) -> Draft:
    """Draw the suites from the held-out documents of `corpus`, which are those that `tokens` says were held out.

    `reference` holds problems from the generators of the corpus's own problems, made with another seed: to a model that
    has never seen the test they are as hard as it (report §5.4). `conversations` are held out as a whole.
    """
    heldout, trained = _split(config, corpus, tokens, ctx)
    domains = defaultdict(list)
    for record in heldout:
        domains[q.domain_of(record)].append(record)
    suites: dict[str, Iterable[Record]] = {
        q.shard_name("perplexity", domain): q.perplexity_set(records, config.perplexity_bytes, config.document_bytes)
        for domain, records in sorted(domains.items())
    }
    prose = [record for record in heldout if q.domain_of(record) != "math"]
    suites[q.shard_name("choice", "larger")] = q.larger_number(config.questions, config.seed)
    suites[q.shard_name("choice", "next_line")] = q.next_line(prose, config.questions, config.choices, config.seed)
    known = {record["question"] for record in q.problems(trained)}
    tests = _unseen(_once(r for r in q.problems(heldout) if r["question"] not in known), trained)
    suites[q.shard_name("generate", "maths")] = tests[: config.questions] or q.sums(config.questions, config.seed)
    splits = {"train": list(q.problems(trained)), "test": tests}
    if reference:
        mine = known | {record["question"] for record in tests}
        others = q.drawn(q.problems(ctx.records(reference)), config.seed)
        splits["reference"] = _unseen(_once(r for r in others if r["question"] not in mine), trained)
        if 2 * len(splits["reference"]) < min(len(tests), len(others), config.contamination):
            ctx.log.warning(
                "the reference repeats the corpus: give its generators a seed further away from the corpus's own",
                problems=len(others),
                kept=len(splits["reference"]),
            )
    if tests and splits["train"]:
        suites[q.shard_name("contamination", "maths")] = [
            record | {"split": split} for split, records in splits.items() for record in records[: config.contamination]
        ]
    chats = q.drawn(ctx.records(conversations), config.seed) if conversations else []
    greetings = [{"id": f"{i:04d}", "messages": [{"role": "user", "content": t}]} for i, t in enumerate(q.GREETINGS)]
    if config.safety:
        suites[q.shard_name("generate", "safety")] = requests(config.safety, config.seed)
    suites[q.shard_name("format", "chat")] = q.prompts(chats or greetings, config.prompts)
    if chats:
        suites[q.shard_name("perplexity", "chat")] = _conversations(chats, config.perplexity_bytes)
        suites[q.shard_name("generate", "chat")] = _once(q.asked(chats))[: config.questions]
    return _written(suites, ctx)


def _split(
    config: PrepareConfig, corpus: Manifest, tokens: Manifest, ctx: StepContext
) -> tuple[list[Record], list[Record]]:
    """Held-out documents, and the problems that are trained on, each in the order of the draw."""
    heldout = {record["id"] for record in ctx.records(tokens) if record["heldout"]}
    records = [r for r in ctx.records(corpus) if r["id"] in heldout or r.get("question")]
    records = q.drawn(records, config.seed)
    return [r for r in records if r["id"] in heldout], [r for r in records if r["id"] not in heldout]


def _unseen(tests: list[Record], trained: list[Record]) -> list[Record]:
    """Problems that no training document holds word for word: generated ones repeat each other's wording by chance.

    Test and reference pass the same sieve, so that they stay of one kind; shared wording is no excuse here.
    """
    index = OverlapIndex(OverlapConfig(max_sharing=max(2, len(tests))))
    for record in tests:
        index.add(f"maths#{record['id']}", f"{record['question']} {record['answer']}")
        index.add(f"question#{record['id']}", record["question"])
    index.build()
    seen = {name.rpartition("#")[2] for record in trained for name in index.find(record["text"])}
    return [record for record in tests if record["id"] not in seen]


def _once(records: Iterable[Record]) -> list[Record]:
    """The first record of every question."""
    return list({record["question"]: record for record in reversed(list(records))}.values())[::-1]


def _conversations(chats: list[Record], total: int) -> Iterable[Record]:
    for record in chats:
        total -= sum(len(message["content"].encode()) for message in record["messages"])
        yield {"id": record["id"], "messages": record["messages"]}
        if total <= 0:
            return


def _written(suites: dict[str, Iterable[Record]], ctx: StepContext) -> Draft:
    """The suites that have a record; counts a suite."""
    full = {name: rows for name, records in suites.items() if (rows := list(records))}
    counts = {"suites": len(full)} | {"/".join(q.suite_of(name)): len(rows) for name, rows in full.items()}
    return ctx.write_records("questions", dict(full), counts=counts)
