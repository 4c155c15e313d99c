"""The borderline review of long documents: who stands on which side of the threshold, and how near (report §3.1.3).

Thresholds are set a domain and language by reading borderline samples alone. The question is only whether to raise
or to lower: raise where good documents lie above the threshold, lower where bad ones lie below it.
"""

import heapq
import html
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from tokenmill.curation.config import SelectLongConfig
from tokenmill.curation.long_thresholds import perplexity_threshold
from tokenmill.manifest import Draft, Manifest
from tokenmill.records import Record
from tokenmill.steps import StepContext

SHOWN = 400
"""Characters of a sample's beginning, and of its middle."""
Ranked = tuple[float, str, dict[str, Any]]


@dataclass
class Side:
    """The documents of one domain on one side of the threshold; the nearest ones are remembered."""

    documents: int = 0
    nearest: list[Ranked] = field(default_factory=list)
    """A heap whose root is the farthest of them."""

    def add(self, distance: float, sample: dict[str, Any], most: int) -> None:
        self.documents += 1
        entry = (-distance, sample["id"], sample)
        if len(self.nearest) < most:
            heapq.heappush(self.nearest, entry)
        elif entry[:2] > self.nearest[0][:2]:
            heapq.heapreplace(self.nearest, entry)

    def told(self) -> dict[str, Any]:
        samples = [sample for _, _, sample in sorted(self.nearest, key=lambda entry: (-entry[0], entry[1]))]
        return {"documents": self.documents, "nearest": samples}


def write_review(config: SelectLongConfig, corpus: Manifest, long: Draft, ctx: StepContext) -> Draft:
    """review.json for machines, review.html for people: a table a type and language."""
    sides: defaultdict[tuple[str, str], dict[str, Side]] = defaultdict(lambda: {"kept": Side(), "dropped": Side()})
    for record in _judged(corpus, long, ctx):
        domain = (record["type"], record["lang"])
        difference, threshold = record["long"]["ppl_difference"], perplexity_threshold(*domain, config.thresholds)
        side = sides[domain]["dropped" if "dropped" in record else "kept"]
        side.add(abs(difference - threshold), _sample(record), config.review_samples)
    domains = [
        {"type": kind, "lang": lang, "threshold": perplexity_threshold(kind, lang, config.thresholds)}
        | {name: side.told() for name, side in both.items()}
        for (kind, lang), both in sorted(sides.items())
    ]
    folder = ctx.workdir / "review"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "review.json").write_bytes(orjson.dumps(domains, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
    (folder / "review.html").write_text(review_html(domains), "utf-8")
    return ctx.write_files("report", folder, counts={"domains": len(domains)})


def _judged(corpus: Manifest, long: Draft, ctx: StepContext) -> Iterator[Record]:
    """Documents that the model has read."""
    for shard in (*long.shards, *long.aside):
        for record in ctx.records(corpus, shard):
            if "ppl_difference" in record.get("long", {}):
                yield record


def _sample(record: Record) -> dict[str, Any]:
    text, middle = record["text"], len(record["text"]) // 2
    return {
        "id": record["id"],
        "source": record["source"],
        "path": record.get("path", ""),
        "begins": text[:SHOWN],
        "middle": text[middle : middle + SHOWN],
    } | record["long"]


def review_html(domains: list[dict[str, Any]]) -> str:
    """The review as a page."""
    return f"""<!doctype html><meta charset="utf-8"><title>Long documents near the threshold</title>
<style>body{{font:14px system-ui;margin:2em}}td{{padding:.3em 1em .3em 0;vertical-align:top;max-width:32em}}
.kept{{border-left:4px solid #2f6f9f}}.dropped{{border-left:4px solid #e0a13a}}pre{{white-space:pre-wrap;margin:0}}</style>
<h1>Long documents near the threshold</h1>
<p>Difference: perplexity behind the far context less perplexity behind the near one. Below the threshold a document is
kept. Raise the threshold where good documents stand above it, lower it where bad ones stand below.</p>
{"".join(map(_table, domains))}"""


def _table(domain: dict[str, Any]) -> str:
    name = html.escape(f"{domain['type']}/{domain['lang']}")
    rows = sorted(
        (
            (sample["ppl_difference"], side, sample)
            for side in ("kept", "dropped")
            for sample in domain[side]["nearest"]
        ),
        key=lambda row: (row[0], row[2]["id"]),
    )
    body = "".join(_row(side, sample) for _, side, sample in rows)
    return (
        f"<h2>{name}: {domain['kept']['documents']:,} kept, {domain['dropped']['documents']:,} dropped at "
        f"{domain['threshold']:g}</h2><table><tr><td>difference<td>far, near<td>document<td>begins<td>middle</tr>"
        f"{body}</table>"
    )


def _row(side: str, sample: dict[str, Any]) -> str:
    begins, middle = (f"<pre>{html.escape(sample[part])}</pre>" for part in ("begins", "middle"))
    where = html.escape(f"{sample['id']} {sample['source']} {sample['path']}")
    return (
        f'<tr class="{side}"><td>{sample["ppl_difference"]:+.3g}<td>{sample["ppl_far"]:.4g}, {sample["ppl_near"]:.4g}'
        f"<td>{where}<td>{begins}<td>{middle}</tr>"
    )
