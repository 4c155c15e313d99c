"""Preference pairs against hacks (report §4.2.2: 20 to 100 a pattern stop it), and answers for people to compare."""

from collections.abc import Mapping, Sequence

from tokenmill.manifest import canonical, sha256
from tokenmill.records import Record
from tokenmill.rlhf.answering import Answers
from tokenmill.rlhf.conditional import Query
from tokenmill.rlhf.gold import GoldQuestion, GoldScore
from tokenmill.rlhf.hacks import JUDGED_WORSE, WRONG_ANSWERS, Hack


def patches(
    hacks: Sequence[Hack], asked: Sequence[Query], clean: Sequence[Answers], late: Answers, most: int
) -> list[Record]:
    """For each hack, the best rewarded late answers that show it, each below an answer that does not.

    Args:
        hacks: what was found.
        asked: queries.
        clean: earlier policies' answers to them, those closest to the late ones first.
        late: the optimised policy's.
        most: pairs a hack.
    """
    by_reward = sorted(range(len(asked)), key=lambda i: -late.rewards[i])
    pairs = []
    for hack in hacks:
        shown = [i for i in by_reward if hack.shows(late.texts[i])]
        better = ((i, next((one.texts[i] for one in clean if not hack.shows(one.texts[i])), None)) for i in shown)
        found = [(i, text) for i, text in better if text is not None]
        pairs += [patch(hack.pattern, asked[i], chosen=text, rejected=late.texts[i]) for i, text in found[:most]]
    return pairs


def patch(pattern: str, asked: Query | GoldQuestion, *, chosen: str, rejected: str) -> Record:
    """One pair. Its id follows from what it says, so rounds that say different things of a query have different ids."""
    said = canonical([pattern, chosen, rejected])
    return {
        "id": f"{asked.id}#patch-{sha256(said)[:12]}",
        **_asked(asked),
        "chosen": chosen,
        "rejected": rejected,
        "template": f"patch: {pattern}",
        "conflict": False,
    }


def _asked(query: Query | GoldQuestion) -> Record:
    """What a record says of the query that it is made of."""
    told = {"domain": query.domain, "prompt": list(query.prompt)}
    return told | ({"condition": query.own_condition} if isinstance(query, Query) and query.own_condition else {})


Judged = tuple[Answers, Sequence[float | None]]
"""An earlier policy's answers, and what the held-out judge says the late ones gain over each; None: nothing."""


def judge_patches(asked: Sequence[Query], clean: Sequence[Judged], late: Answers, most: int) -> list[Record]:
    """Late answers with more reward than an earlier one and less of the judge's, below it; those furthest apart first.

    Args:
        asked: queries.
        clean: earlier policies', those closest to the late one first.
        late: the optimised policy's.
        most: pairs.
    """
    apart = []
    for i in range(len(asked)):
        for answers, gains in clean:
            rise, gain = late.rewards[i] - answers.rewards[i], gains[i]
            if rise > 0 and gain is not None and gain < 0:
                apart.append((rise - gain, i, answers.texts[i]))
                break
    apart.sort(key=lambda found: -found[0])
    return [patch(JUDGED_WORSE, asked[i], chosen=text, rejected=late.texts[i]) for _, i, text in apart[:most]]


def gold_patches(
    questions: Sequence[GoldQuestion],
    first: tuple[Sequence[str], GoldScore],
    late: tuple[Sequence[str], GoldScore],
    most: int,
) -> list[Record]:
    """Answers that were right and became wrong: the right one above the wrong one."""
    lost = [i for i in range(len(questions)) if first[1].right[i] > late[1].right[i]]
    return [patch(WRONG_ANSWERS, questions[i], chosen=first[0][i], rejected=late[0][i]) for i in lost[:most]]


def responses(asked: Sequence[Query], said: Mapping[str, Answers], part: slice) -> list[Record]:
    """What each model said to the queries that are not judged: what people are given to compare."""
    return [
        {
            "id": query.id,
            **_asked(query),
            "answers": {name: answers.texts[part][i] for name, answers in said.items()},
        }
        for i, query in enumerate(asked)
    ]
