"""Gathers what a run's page shows, from its events and the artifacts they name.

Nothing here knows a phase's code: a training log is records with `tokens` and `loss`, a tokenizer's fertility a JSON file
with `domains`, a data card one with `conversations`, an evaluation one with `suites`, a reward model's with
`with_prompts`, a verdict one with `passed` and `checks`. What a run does not have is left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from tokenmill.errors import UserError
from tokenmill.lineage import upstream
from tokenmill.manifest import JSON, Manifest
from tokenmill.records import JSONL, read_jsonl
from tokenmill.store import ArtifactStore
from tokenmill.tracking.event_files import Event, read_events
from tokenmill.tracking.run import read_run

RunData = dict[str, Any]
Row = dict[str, Any]  # of the steps' table
Made = tuple[Row, Manifest]
_LARGEST_JSON = 8 << 20  # bytes; a larger file is data, not something to show


def collect(store: ArtifactStore, run_key: str) -> RunData:
    """Everything `render` needs, as plain JSON; its shape is in docs/concepts/tracking.md.

    Raises:
        InputError: the store has no such run.
    """
    run = read_run(store, run_key)
    events = list(read_events(store, run_key))
    steps = _steps(events)
    digests = [(row, output["digest"]) for row in steps for output in row["outputs"].values()]
    made = [(row, store.get_manifest(d)) for row, d in digests if store.has_manifest(d)]
    logs = [
        (row, manifest, list(_records(store, manifest))) for row, manifest in made if manifest.kind == "training_log"
    ]
    return {
        "run": _run(run.model_dump(), store, events, steps),
        "steps": steps,
        "funnel": _funnel(made),
        "fertility": next(
            (f["domains"] for _, m in made for f in _json(store, m, "tokenizer") if f.get("domains")), []
        ),
        "conversations": next((c for _, m in made for c in _json(store, m, "report") if "conversations" in c), None),
        "training": [_training(store, row, records) for row, _, records in logs if not _is_policy(records)],
        "rounds": _rounds(store, made, [(row, records) for row, _, records in logs if _is_policy(records)]),
        "evaluations": [e for _, m in made for e in _json(store, m, "evaluation") if e.get("suites")],
        "reward_models": [e for _, m in made for e in _json(store, m, "evaluation") if "with_prompts" in e],
        "comparisons": [c for _, m in made for c in _json(store, m, "comparison") if c.get("groups")],
        "verdict": next((v for _, m in reversed(made) for v in _json(store, m, "verdict")), None),
        "served": _served(store, made),
        "lineage": _lineage(store, made),
    }


def _run(ref: Mapping[str, JSON], store: ArtifactStore, events: list[Event], steps: list[Row]) -> dict[str, Any]:
    closed = next((e for e in reversed(events) if e.kind == "run_closed"), None)
    opened = next((e for e in reversed(events) if e.kind == "run_opened"), None)
    if closed and opened and opened.time > closed.time:
        closed = None
    begun = opened.time if opened else min((e.time for e in events), default=0.0)
    ended = closed.time if closed else max((e.time for e in events), default=begun)
    failed = any(row["status"] == "failed" for row in steps)
    return {
        **ref,
        "store": store.uri,
        "status": closed.data["status"] if closed else ("failed" if failed else "running"),
        "message": closed.data.get("message", "") if closed else "",
        "opened": begun,
        "seconds": ended - begun,
    }


def _steps(events: list[Event]) -> list[dict[str, Any]]:
    """One row a task, as its last attempt left it. The page itself is no part of what it tells."""
    rows: dict[str, dict[str, Any]] = {}
    for event in events:
        row = rows.get(event.task)
        if event.kind == "step_started":
            rows[event.task] = {
                "task": event.task,
                "step": event.data["step"],
                "phase": str(event.data["step"]).partition(".")[0],
                "version": event.data["version"],
                "status": "running",
                "cache": "",
                "started": event.time,
                "seconds": None,
                "budget_s": event.data.get("budget_s"),
                "attempts": (row["attempts"] if row else 0) + 1,
                "tags": event.data.get("tags", {}),
                "outputs": {},
                "message": "",
            }
        elif row and event.kind == "step_finished":
            row |= {"status": "done", "message": ""}
            row |= {name: event.data[name] for name in ("cache", "seconds", "outputs")}
        elif row and event.kind == "step_failed":
            row |= {"status": "failed", "message": event.data["message"], "seconds": event.time - row["started"]}
    return [row for row in rows.values() if row["phase"] != "report"]


def _funnel(made: list[Made]) -> list[dict[str, Any]]:
    """Curation's stages in the order they ran; groups of shards that ran in parallel are one stage.

    Only the longest way counts: a reference set that is read beside it is no stage of this funnel.
    """
    read = [
        (row, manifest)
        for row, manifest in made
        if row["phase"] == "curation" and manifest.kind == "corpus" and {"in", "records"} <= manifest.counts.keys()
    ]
    above = _ancestors([manifest for _, manifest in made])
    before = {m.digest: sum(other.digest in above[m.digest] for _, other in read) for _, m in read}
    last = {row["step"] for row, m in read if before[m.digest] == max(before.values())}
    wanted = {d for row, m in read if row["step"] in last for d in (m.digest, *above[m.digest])}
    stages: dict[str, dict[str, Any]] = {}
    for row, manifest in read:
        counts = manifest.counts
        if manifest.digest not in wanted:
            continue
        stage = stages.setdefault(row["step"], {"step": row["step"], "in": 0, "kept": 0, "dropped": {}, "cached": True})
        stage["in"] += counts["in"]
        stage["kept"] += counts["records"]
        stage["cached"] = stage["cached"] and row["cache"] == "hit"
        for reason, count in manifest.dropped.items():
            stage["dropped"][reason] = stage["dropped"].get(reason, 0) + count
    for stage in stages.values():
        stage["joined"] = stage["in"] - stage["kept"] - sum(stage["dropped"].values())
    return list(stages.values())


def _ancestors(manifests: list[Manifest]) -> dict[str, set[str]]:
    """Digest → digests of its ancestors among the manifests, which come after their parents."""
    above: dict[str, set[str]] = {}
    for manifest in manifests:
        parents = [digest for digest in manifest.parent_digests if digest in above]
        above[manifest.digest] = set(parents).union(*(above[digest] for digest in parents))
    return above


def _training(store: ArtifactStore, row: Row, records: list[dict[str, Any]]) -> dict[str, Any]:
    weights = row["outputs"].get("weights")
    there = weights and store.has_manifest(weights["digest"])
    ledger = store.get_manifest(weights["digest"]).facts.get("ledger", {}) if there else {}
    return {"step": row["step"], "task": row["task"], "log": records, "ledger": ledger}


def _is_policy(records: list[dict[str, Any]]) -> bool:
    """A log of reinforcement learning: its loss says little, its rewards much."""
    return any("reward" in record for record in records)


def _rounds(
    store: ArtifactStore, made: list[Made], logs: list[tuple[Row, list[dict[str, Any]]]]
) -> list[dict[str, Any]]:
    """Reinforcement learning, round by round: what the policy's log says, what the probe found, what was decided."""
    probes = [(row, report) for row, m in made for report in _json(store, m, "evaluation") if "reward_after" in report]
    decisions = [(row, told) for row, m in made for told in _json(store, m, "decision")]
    ends = [*(row["started"] for row, _ in logs), float("inf")][1:]
    rounds = []
    for number, ((row, records), end) in enumerate(zip(logs, ends, strict=True), 1):
        probe, decision = (
            next((told for at, told in found if row["started"] <= at["started"] < end), None)
            for found in (probes, decisions)
        )
        rounds.append({"round": number, "task": row["task"], "log": records, "probe": probe, "decision": decision})
    return rounds


def _served(store: ArtifactStore, made: list[Made]) -> dict[str, Any] | None:
    """What the last deployment found: `question` and `answer`, or the `reason` why there is none."""
    found = [report for _, manifest in made for report in _json(store, manifest, "deployment")]
    return next((r for r in reversed(found) if r.get("answer") or r.get("reason")), None)


def _lineage(store: ArtifactStore, made: list[Made]) -> dict[str, Any]:
    """Everything this run made, and everything that was made from."""
    nodes: dict[str, Manifest] = {}
    edges: set[tuple[str, str, str]] = set()
    sources: set[tuple[str, str, str]] = set()
    parents = {digest for _, manifest in made for digest in manifest.parent_digests}
    ends = [m.digest for _, m in made if m.digest not in parents and m.kind != "report"]  # pages tell, they do not make
    for end in ends:
        if end in nodes:
            continue
        graph = upstream(store, end)
        nodes |= graph.nodes
        edges |= {(e.parent, e.child, e.role) for e in graph.edges}
        sources |= {(s.name, s.licence, s.origin) for s in graph.sources}
    names = ("digest", "kind", "step", "counts")
    tasks = {manifest.digest: row["task"] for row, manifest in made if manifest.step == row["step"]}
    return {
        "nodes": [
            {name: getattr(m, name) for name in names} | {"task": tasks.get(d, m.step)} for d, m in nodes.items()
        ],
        "edges": [{"parent": p, "child": c, "role": r} for p, c, r in sorted(edges)],
        "sources": [{"name": n, "licence": lic, "origin": o} for n, lic, o in sorted(sources)],
    }


def _records(store: ArtifactStore, manifest: Manifest) -> Iterator[dict[str, Any]]:
    for shard in manifest.shards:
        if shard.name.endswith(JSONL):
            yield from read_jsonl(store.blob_path(shard.blob))


def _json(store: ArtifactStore, manifest: Manifest, kind: str) -> list[dict[str, Any]]:
    """The JSON objects among an artifact's files. A file that is none is not shown; the page must still be written."""
    found = []
    for shard in manifest.shards if manifest.kind == kind else ():
        if shard.name.endswith(".json") and shard.size <= _LARGEST_JSON:
            try:
                value = orjson.loads(store.bytes_of(shard))
            except (UserError, orjson.JSONDecodeError):
                continue
            if isinstance(value, dict):
                found.append(value)
    return found
