"""The end of a run, for the person who waited: verdict, the served model's answer, lineage, where to look next."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from tokenmill.errors import UserError
from tokenmill.lineage import upstream
from tokenmill.manifest import Manifest
from tokenmill.pipelines.handed_on import handed_on
from tokenmill.pipelines.refusal import reasons
from tokenmill.report import collect, render
from tokenmill.store import ArtifactStore
from tokenmill.tracking import read_events


def summarise(store: ArtifactStore, run: str, folder: Path) -> dict[str, Any]:
    """What the run ended with, as JSON; writes the run's page beside its log."""
    last = _last_outputs(store, run)
    page = folder / "report.html"
    data, made = collect(store, run), handed_on(store, run)
    page.write_text(render(data))
    steps = [_timed(row) for row in data["steps"]]
    summary: dict[str, Any] = {"report": str(page), "outputs": made, "steps": steps, "phases": phase_times(steps)}
    if funnel := last.get("curation.funnel"):
        summary["funnel"] = str(folder / "funnel.html")
        (folder / "funnel.html").write_bytes(store.get_blob(funnel.shard("funnel.html").blob))
    if verdict := last.get("evaluation.gate"):
        judged = _document(store, verdict, "verdict.json")
        failed = [check["name"] for check in judged["checks"] if not check["passed"]]
        summary["verdict"] = {"passed": judged["passed"], "failed": failed, "digest": verdict.digest}
        if failed:
            summary["verdict"]["why"] = reasons(judged)
    if deployment := last.get("deployment.deploy"):
        told = _document(store, deployment, "deployment.json")
        keys = ("name", "version", "served", "ok", "question", "answer", "parity", "agreement", "reason")
        summary["served"] = {key: told[key] for key in keys if key in told}
    if root := _furthest(last, made):
        graph = upstream(store, root)
        summary["lineage"] = {
            "of": root,
            "artifacts": len(graph.nodes),
            "sources": [source._asdict() for source in graph.sources],
        }
    return summary


def as_text(summary: dict[str, Any]) -> str:
    """The summary for a terminal."""
    lines = ["", *_time_table(summary["phases"])]
    if verdict := summary.get("verdict"):
        word = "passed" if verdict["passed"] else f"refused ({', '.join(verdict['failed'])})"
        lines.append(f"gate      {word}, verdict {verdict['digest'][:12]}")
        lines += [f"          {why}" for why in verdict.get("why", ())]
    if served := summary.get("served"):
        if served["served"]:
            lines.append(f"asked     {served['question']}")
            lines.append(
                f"answered  {served.get('answer', '').strip() or '(nothing)'}   [{served['name']} v{served['version']}]"
            )
        if not served["ok"]:
            lines.append(f"serving   {served['reason']}")
    if lineage := summary.get("lineage"):
        names = ", ".join(dict.fromkeys(f"{s['name']} ({s['licence']})" for s in lineage["sources"]))
        lines.append(
            f"lineage   {lineage['of'][:12]} ← {lineage['artifacts']} artifacts ← {len(lineage['sources'])} sources: {names}"
        )
    if outputs := summary["outputs"]:
        lines.append("hand on   " + " ".join(f"--input {name}={digest[:12]}" for name, digest in outputs.items()))
    if funnel := summary.get("funnel"):
        lines.append(f"funnel    {funnel}")
    lines.append(f"report    {summary['report']}")
    lines.append("MLflow    tokenmill ui")
    return "\n".join(lines)


def phase_times(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Actual time and budget a phase, then of them all: the sums over its tasks, cache hits included."""
    names = dict.fromkeys(step["phase"] for step in steps)
    groups = [(name, [s for s in steps if s["phase"] == name]) for name in names] + [("total", steps)]
    return [
        {
            "phase": name,
            "seconds": round(sum(s["seconds"] or 0.0 for s in group), 1),
            "budget_s": sum(s["budget_s"] or 0.0 for s in group) or None,
            "steps": len(group),
            "cached": sum(s["cache"] == "hit" for s in group),
        }
        for name, group in groups
    ]


def _timed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("task", "step", "phase", "status", "cache", "seconds", "budget_s")}


def _time_table(phases: list[dict[str, Any]]) -> list[str]:
    budgeted = phases[-1]["budget_s"] is not None
    lines = [f"{'':<14}{'seconds':>9}{'budget' if budgeted else '':>8}   steps"]
    for row in phases:
        budget = f"{row['budget_s']:.0f}" if row["budget_s"] else "–" if budgeted else ""
        cached = f", {row['cached']} cached" if row["cached"] else ""
        over = "   over budget" if row["budget_s"] and row["seconds"] > row["budget_s"] else ""
        lines.append(f"{row['phase']:<14}{row['seconds']:>9.1f}{budget:>8}   {row['steps']}{cached}{over}")
    return [*lines, ""]


def _furthest(last: Mapping[str, Manifest], made: Mapping[str, str]) -> str | None:
    """The digest of the furthest point of a model's life that the run came to."""
    if released := last.get("deployment.bundle"):
        return released.digest
    ends = [made[name] for name in ("chat", "sft", "enhanced", "base") if name in made]
    ends += [last[step].digest for step in ("pretraining.pretrain", "curation.order_code") if step in last]
    return next(iter(ends), None)


def _last_outputs(store: ArtifactStore, run: str) -> dict[str, Manifest]:
    """Step → the first output of its last finished task."""
    last: dict[str, Manifest] = {}
    for event in read_events(store, run):
        if event.kind == "step_finished" and event.data["outputs"]:
            outputs = event.data["outputs"]
            chosen = outputs.get("weights") or next(iter(outputs.values()))
            try:
                last[event.data["step"]] = store.get_manifest(chosen["digest"])
            except UserError:  # collected meanwhile: the summary does without
                continue
    return last


def _document(store: ArtifactStore, manifest: Manifest, name: str) -> Any:
    return orjson.loads(store.get_blob(manifest.shard(name).blob))
