"""Several corpora into one, and the funnel: what each stage kept, and what it dropped for which reason."""

import html
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import orjson

from tokenmill.curation.config import FunnelConfig, MergeConfig
from tokenmill.manifest import Draft, Manifest, Shard
from tokenmill.records import JSONL
from tokenmill.steps import StepContext, step


@step("curation.merge", version=1, kinds={"corpora": "corpus"})
def merge(config: MergeConfig, corpora: list[Manifest], ctx: StepContext) -> Draft:
    """One corpus of all shards, renumbered; no record is read, and the order of the inputs does not matter."""
    shards = merged(corpora)
    return Draft(kind="corpus", shards=shards, counts={"records": sum(s.records for s in shards)})


def merged(corpora: Iterable[Manifest]) -> tuple[Shard, ...]:
    """The shards of all corpora, numbered anew in each partition; a shard that two corpora share is taken once."""
    partitions: defaultdict[str, dict[str, Shard]] = defaultdict(dict)
    for corpus in corpora:
        for shard in corpus.shards:
            known = partitions[shard.name.rpartition("/")[0]].setdefault(shard.content, shard)
            if (shard.name, shard.blob) < (known.name, known.blob):
                partitions[shard.name.rpartition("/")[0]][shard.content] = shard
    shards: list[Shard] = []
    for partition in sorted(partitions):
        ordered = sorted(partitions[partition].values(), key=lambda s: (s.name, s.content))
        shards += [s.model_copy(update={"name": f"{partition}/part-{i:05d}{JSONL}"}) for i, s in enumerate(ordered)]
    return tuple(shards)


@step("curation.funnel", version=1, kinds={"stages": "corpus"})
def funnel(config: FunnelConfig, stages: list[Manifest], ctx: StepContext) -> Draft:
    """A report of the stages, in the order given: funnel.json for machines, funnel.html for people."""
    rows = [stage_row(stage) for stage in stages]
    folder = ctx.workdir / "funnel"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "funnel.json").write_bytes(orjson.dumps(rows, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
    (folder / "funnel.html").write_text(funnel_html(rows), "utf-8")
    return ctx.write_files("report", folder, counts={"stages": len(rows)})


def stage_row(stage: Manifest) -> dict[str, Any]:
    """One stage's counts; every reason is named, and the sum holds."""
    by_partition: defaultdict[str, int] = defaultdict(int)
    for shard in stage.shards:
        by_partition[shard.name.rpartition("/")[0]] += shard.records
    row = {"in": stage.counts.get("in", stage.counts["records"]), "kept": stage.counts["records"]}
    return row | {
        "step": stage.step,
        "dropped": stage.dropped,
        "partitions": dict(sorted(by_partition.items())),
        "code_files": stage.counts.get("code_files", 0),
    }


def funnel_html(rows: list[dict[str, Any]]) -> str:
    """The funnel as a page: one bar a stage, its reasons beside it."""
    widest = max((row["in"] for row in rows), default=1) or 1
    body = "\n".join(_bar(row, widest) for row in rows)
    return f"""<!doctype html><meta charset="utf-8"><title>Corpus funnel</title>
<style>body{{font:14px system-ui;margin:2em}}td{{padding:.3em 1em .3em 0;vertical-align:top}}
.bar{{display:flex;width:320px;height:1.1em;background:#f1f1f1}}.kept{{background:#2f6f9f}}.gone{{background:#e0a13a}}</style>
<h1>Corpus funnel</h1><table><tr><td>stage<td><td>kept<td>of<td>dropped, by reason</tr>
{body}
</table>"""


def _bar(row: dict[str, Any], widest: int) -> str:
    kept, gone = (100 * n / widest for n in (row["kept"], row["in"] - row["kept"]))
    reasons = sorted(row["dropped"].items(), key=lambda item: (-item[1], item[0]))
    told = ", ".join(f"{reason} {n:,}" for reason, n in reasons)
    if row["code_files"]:
        told = f"{row['code_files']:,} code files joined into repository documents"
    return (
        f'<tr><td>{html.escape(row["step"])}<td><div class="bar"><div class="kept" style="width:{kept:.1f}%"></div>'
        f'<div class="gone" style="width:{max(gone, 0):.1f}%"></div></div>'
        f"<td>{row['kept']:,}<td>{row['in']:,}<td>{html.escape(told or '–')}</tr>"
    )
