"""Safe → High-quality: how fluent a document is, and how little of an advertisement (report §3.1.1).

The report fine-tunes two BERTs on human labels: *fluency* on four dimensions (consistency, noise, information
content, grammar), and *ads*, where a **partial** ad is low quality too. Formula, labels and thresholds are
unpublished. This step gives the same two scores from plain statistics, both in [0, 1] and **higher = better**; the
mean of the dimensions is ours. A score that `curation.score` or an annotator has set is taken as it is.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenmill.curation.config import GradeConfig
from tokenmill.curation.document import Document, prepare, share
from tokenmill.curation.thresholds import Limits
from tokenmill.curation.words import Substrings
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import Drop, Keep, StepContext, step


@step("curation.grade", version=1, kinds={"corpus": "corpus", "thresholds": "thresholds"})
def grade(config: GradeConfig, corpus: Manifest, thresholds: Manifest | None, ctx: StepContext) -> Draft:
    """Record the quality scores of graded types; drop what is below a threshold."""
    minimum = {"fluency": config.min_fluency, "not_ad": config.min_not_ad}
    prepare()
    limits = Limits.load(minimum, config.thresholds, thresholds, ctx.store)
    return ctx.map_shards(corpus, Graded(config.types, limits))


@dataclass(frozen=True)
class Graded:
    """Scores one record; a score that an annotator has set already is not overwritten."""

    types: tuple[str, ...]
    limits: Limits

    def __call__(self, record: dict[str, Any]) -> Keep | Drop:
        if record["type"] not in self.types:
            return Keep(record)
        if not self.limits.default.keys() <= record["scores"].keys():
            record = record | {"scores": scores(record["text"], record["lang"]) | record["scores"]}
        for name, minimum in self.limits.of(record["lang"], record["type"]).items():
            if record["scores"][name] < minimum:
                return Drop(f"low_{name}", record, value=record["scores"][name], threshold=minimum)
        return Keep(record)


def scores(text: str, lang: str) -> dict[str, float]:
    """The two scores of a text by rules, to three decimals."""
    doc = Document(text, lang)
    return {"fluency": round(fluency(doc), 3), "not_ad": round(not_ad(doc), 3)}


def fluency(doc: Document) -> float:
    """Mean of four dimensions, each 1 for ordinary prose."""
    information = ramp(doc.unique_share, 0.1, 0.35) * ramp(doc.n_units, 10, 60)
    noise = 1 - min(1.0, 20 * (doc.replacement_share + doc.control_share + doc.mojibake_share))
    noise *= ramp(doc.alphabetic_share, 0.4, 0.75)
    consistency = 1 - doc.repeated_lines[1]
    # prose has sentences: a list of menu items or product names has few
    grammar = ramp(share(doc.n_sentences * (40 if doc.lang == "en" else 80), doc.n_units), 0.0, 1.0)
    return (information + noise + consistency + grammar) / 4


_SELLS = re.compile(
    r"\b(?:(?:buy|order|shop|act|call us|subscribe|sign up) (?:now|today)|add to cart|free shipping|limited[- ]time|"
    r"special offer|best price|lowest prices?|discounts?|coupons?|promo code|click here|money[- ]back|\d+% off|"
    r"sale ends|hurry)\b|立即购买|马上抢购|限时优惠|免费咨询|包邮|厂家直销|优惠价|点击(?:这里|购买|咨询)|加微信|"
    r"咨询热线|全国热线|特价|促销|抢购",
    re.IGNORECASE,
)


@cache
def _may_sell() -> Substrings:
    """One of these is in every match of `_SELLS`. Most texts have none: one pass for all of them is all that these cost."""
    return Substrings(
        [
            *(
                f"{call} {day}"
                for call in ("buy", "order", "shop", "act", "call us", "subscribe", "sign up")
                for day in ("now", "today")
            ),
            *(
                "add to cart",
                "free shipping",
                "limited time",
                "limited-time",
                "special offer",
                "best price",
                "lowest price",
            ),
            *(
                "discount",
                "coupon",
                "promo code",
                "click here",
                "money back",
                "money-back",
                "% off",
                "sale ends",
                "hurry",
            ),
            *(
                "立即购买",
                "马上抢购",
                "限时优惠",
                "免费咨询",
                "包邮",
                "厂家直销",
                "优惠价",
                "点击",
                "加微信",
                "咨询热线",
            ),
            *("全国热线", "特价", "促销", "抢购"),
        ]
    )


def not_ad(doc: Document) -> float:
    """1 − the advertising of the most advertising paragraph: a page that is an ad in part is an ad."""
    may_sell = _may_sell()
    if not may_sell.any_in(doc.text):
        return 1.0
    return 1 - max((_advertising(p, doc.lang) for p in doc.paragraphs if may_sell.any_in(p)), default=0.0)


def _advertising(paragraph: str, lang: str) -> float:
    calls = len(_SELLS.findall(paragraph))
    length = len(paragraph) / 2 if lang == "zh" else len(paragraph.split())
    return ramp(calls, 1, 4) * ramp(100 * share(calls, max(length, 20)), 0.5, 5)


def ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, straight between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))
