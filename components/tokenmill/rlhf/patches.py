"""Preference pairs against hacks (report §4.2.2: 20 to 100 a pattern stop it), and answers for people to compare."""

from collections.abc import Mapping, Sequence

from tokenmill.records import Record
from tokenmill.rlhf.answering import Answers
from tokenmill.rlhf.conditional import Query
from tokenmill.rlhf.gold import GoldQuestion, GoldScore
from tokenmill.rlhf.hacks import WRONG_ANSWERS, Hack


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


def gold_patches(
    questions: Sequence[GoldQuestion],
    first: tuple[Sequence[str], GoldScore],
    late: tuple[Sequence[str], GoldScore],
    most: int,
) -> list[Record]:
    """Answers that were right and became wrong: the right one above the wrong one."""
    lost = [i for i in range(len(questions)) if first[1].right[i] > late[1].right[i]]
    return [
        {
            "id": f"{questions[i].id}#patch-gold",
            "domain": questions[i].domain,
            "prompt": list(questions[i].prompt),
            "chosen": first[0][i],
            "rejected": late[0][i],
            "template": f"patch: {WRONG_ANSWERS}",
            "conflict": False,
        }
        for i in lost[:most]
    ]


def responses(asked: Sequence[Query], said: Mapping[str, Answers], part: slice) -> list[Record]:
    """What each model said to the queries that are not judged: what people are given to compare."""
    return [
        {
            "id": query.id,
            "domain": query.domain,
            "prompt": list(query.prompt),
            "answers": {name: answers.texts[part][i] for name, answers in said.items()},
        }
        for i, query in enumerate(asked)
    ]
