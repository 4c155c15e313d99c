"""Requests for help, answered in two styles: directly, and with care.

Which answer is right depends on what is wanted: who wants help prefers the first, who wants no harm the second. That is
the conflict a conditional reward model resolves (report §4.2.1). A model fine-tuned on these conversations leans to the
answer that fits a request and often gives the other: it leaves RLHF something to do.
"""

import itertools
import random
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import yaml

from tokenmill.records import Record

STYLES = ("direct", "careful")
FITTING = {"helpful": "direct", "harmless": "careful"}


@cache
def wording() -> dict[str, Any]:
    """Actions, circumstances and templates: requests.yaml."""
    return dict(yaml.safe_load((resources.files("tokenmill.sft") / "requests.yaml").read_text("utf-8")))


def requests(seed: int, one_sided: float = 0.0) -> Iterator[list[Record]]:
    """Every request once, in an order that the seed fixes, as its conversations.

    `domain` says what people want of an answer to it, `template` which sentences it was made of. A share of the
    requests, `one_sided`, has only the answer in the fitting style; the others have both.
    """
    words = wording()
    cases = [
        (name, action, circumstance)
        for name, template in sorted(words["templates"].items())
        for action, circumstance in itertools.product(words["actions"], words["circumstances"][template["domain"]])
    ]
    draw = random.Random(seed)
    draw.shuffle(cases)
    for name, action, circumstance in cases:
        template = words["templates"][name]
        question = template["request"].format(action=action, circumstance=circumstance)
        styles = (FITTING[template["domain"]],) if draw.random() < one_sided else STYLES
        yield [
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": template[style].format(action=action)},
                ],
                "domain": template["domain"],
                "template": name,
                "style": style,
            }
            for style in styles
        ]
