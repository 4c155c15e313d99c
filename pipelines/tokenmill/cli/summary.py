"""The end of a run, for the person who waited: verdict, the served model's answer, lineage, where to look next."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from tokenmill.errors import UserError
from tokenmill.lineage import upstream
from tokenmill.manifest import Manifest
from tokenmill.pipelines.handed_on import handed_on
from tokenmill.report import collect, render
from tokenmill.store import ArtifactStore
from tokenmill.tracking import read_events


def summarise(store: ArtifactStore, run: str, folder: Path) -> dict[str, Any]:
    """What the run ended with, as JSON; writes the run's page beside its log."""
    last = _last_outputs(store, run)
    page = folder / "report.html"
    page.write_text(render(collect(store, run)))
    made = handed_on(store, run)
    summary: dict[str, Any] = {"report": str(page), "outputs": made}
    if verdict := last.get("evaluation.gate"):
        judged = _document(store, verdict, "verdict.json")
        failed = [check["name"] for check in judged["checks"] if not check["passed"]]
        summary["verdict"] = {"passed": judged["passed"], "failed": failed, "digest": verdict.digest}
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
    lines = [""]
    if verdict := summary.get("verdict"):
        word = "passed" if verdict["passed"] else f"refused ({', '.join(verdict['failed'])})"
        lines.append(f"gate      {word}, verdict {verdict['digest'][:12]}")
    if served := summary.get("served"):
        if served["served"]:
            lines.append(f"asked     {served['question']}")
            lines.append(
                f"answered  {served.get('answer', '').strip() or '(nothing)'}   [{served['name']} v{served['version']}]"
            )
        if not served["ok"]:
            lines.append(f"serving   {served['reason']}")
    if lineage := summary.get("lineage"):
        names = ", ".join(f"{s['name']} ({s['licence']})" for s in lineage["sources"])
        lines.append(
            f"lineage   {lineage['of'][:12]} ← {lineage['artifacts']} artifacts ← {len(lineage['sources'])} sources: {names}"
        )
    if outputs := summary["outputs"]:
        lines.append("hand on   " + " ".join(f"--input {name}={digest[:12]}" for name, digest in outputs.items()))
    lines.append(f"report    {summary['report']}")
    lines.append("MLflow    tokenmill ui")
    return "\n".join(lines)


def _furthest(last: Mapping[str, Manifest], made: Mapping[str, str]) -> str | None:
    """The digest of the furthest point of a model's life that the run came to."""
    if released := last.get("deployment.bundle"):
        return released.digest
    ends = [made[name] for name in ("chat", "sft", "enhanced", "base") if name in made]
    ends += [last[step].digest for step in ("pretraining.train_short", "curation.order_code") if step in last]
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
