"""Requests for help, each answered in two styles: directly, and with care.

A model trained on both answers alike gives either by chance. Which one is right depends on what is wanted: whoever wants help
prefers the first, whoever wants no harm the second. RLHF decides; that is the conflict a conditional reward model resolves
(report §4.2.1).
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


@cache
def wording() -> dict[str, Any]:
    """Actions, circumstances and templates: requests.yaml."""
    return dict(yaml.safe_load((resources.files("tokenmill.sft") / "requests.yaml").read_text("utf-8")))


def requests(seed: int) -> Iterator[list[Record]]:
    """Every request once, in an order that the seed fixes, as its two conversations.

    `domain` says what people would want of an answer to it, `template` which sentences it was made of.
    """
    words = wording()
    circumstances = [(domain, text) for domain, texts in words["circumstances"].items() for text in texts]
    cases = list(itertools.product(sorted(words["templates"]), words["actions"], circumstances))
    random.Random(seed).shuffle(cases)
    for template, action, (domain, circumstance) in cases:
        sentences = words["templates"][template]
        question = sentences["request"].format(action=action, circumstance=circumstance)
        yield [
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": sentences[style].format(action=action)},
                ],
                "domain": domain,
                "template": template,
                "style": style,
            }
            for style in STYLES
        ]
