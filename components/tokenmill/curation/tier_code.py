"""Code: tiers by quality, and the epochs that a file is trained for (report §3.1.2, Table 2).

High 16.8% of the bytes, for several epochs; moderate 69.9%, for one; low 13.3%, dropped. Rules score every language that
they know; a model's score counts only where it agrees with people on a validated set, and other languages are kept apart
as `unscored`, for one epoch. Style is no measure of quality (the report found it misleading), so no rule looks at it:
they find what is no source code that a person wrote.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tokenmill.curation.config import TierCodeConfig
from tokenmill.curation.document import share
from tokenmill.curation.grade import ramp
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import Drop, Keep, StepContext, step


@step("curation.tier_code", version=1, kinds={"corpus": "corpus"})
def tier_code(config: TierCodeConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """Give every code file its tier and epochs; drop the low tier. Documents of other types pass as they are."""
    return ctx.map_shards(corpus, Tiered(config))


@dataclass(frozen=True)
class Tiered:
    """Decides for one file."""

    config: TierCodeConfig

    def __call__(self, record: dict[str, Any]) -> Keep | Drop:
        if record["type"] != "code":
            return Keep(record)
        scores = self.scores(record)
        if not scores:
            return Keep(record | {"tier": "unscored", "epochs": 1})
        value = sum(scores.values()) / len(scores)
        record = record | {"scores": record["scores"] | scores}
        if value < self.config.low:
            return Drop(
                "low_tier", record | {"tier": "low", "epochs": 0}, value=round(value, 4), threshold=self.config.low
            )
        if value >= self.config.high:
            return Keep(record | {"tier": "high", "epochs": self.config.high_epochs})
        return Keep(record | {"tier": "moderate", "epochs": 1})

    def scores(self, record: dict[str, Any]) -> dict[str, float]:
        """The scores that count in the file's language; their mean decides."""
        found = {}
        if record["lang"] in self.config.rule_languages:
            found["code_rules"] = round(code_rules(record["text"], record["lang"]), 3)
        if record["lang"] in self.config.validated_languages and "code_quality" in record["scores"]:
            found["code_quality"] = record["scores"]["code_quality"]
        return found


_GENERATED = re.compile(
    r"auto-?generated|automatically generated|machine-generated|(?:code|file)(?: is| was| has been)? generated\b|do not edit|"
    r"@generated\b",
    re.IGNORECASE,
)
_STRING_OR_NUMBER = re.compile(r'"[^"\n]*"|\'[^\'\n]*\'|\b0x[0-9A-Fa-f]+\b|\b[0-9][0-9.eE_+-]*\b')
_NAME = re.compile(r"[^\W\d]\w*")
_BLOB = re.compile(r"[A-Za-z0-9+/=]{200,}|(?:[0-9A-Fa-f]{2}[\s,\\x]{0,4}){200,}")


def code_rules(text: str, lang: str) -> float:
    """The product of five shares, each 1 for a file that a person wrote and another can learn from.

    Lines of readable length (a minified file has few and long ones), code beside data (a table of literals has none), names
    beyond a handful, lines that are not copies of each other, and no mark of a generator near the top.
    """
    lines = [line for line in (raw.strip() for raw in text.split("\n")) if line]
    if not lines:
        return 0.0
    characters = sum(map(len, lines))
    long_share = share(sum(len(line) for line in lines if len(line) > 300), characters)
    blob_share = share(sum(len(blob) for blob in _BLOB.findall(text)), characters)
    literal_share = share(sum(len(literal) for literal in _STRING_OR_NUMBER.findall(text)), characters)
    counted = Counter(line for line in lines if len(line) > 20)
    copied = share(sum(n - 1 for n in counted.values()), counted.total())
    names = len({name.lower() for name in _NAME.findall(text)})
    readable = 1 - ramp(long_share, 0.1, 0.7)
    logic = 1 - max(ramp(blob_share, 0.05, 0.5), ramp(literal_share, 0.6, 0.95))
    vocabulary = 0.5 + 0.5 * ramp(names, 3, 25)
    original = 1 - ramp(copied, 0.2, 0.8)
    written = 0.3 if _GENERATED.search("\n".join(lines[:10])[:1000]) else 1.0
    return readable * logic * vocabulary * original * written
