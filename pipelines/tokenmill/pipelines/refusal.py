"""Why the gate let a run's model not pass, in one line: for the exit handler, the summary and MLflow."""

from collections.abc import Mapping
from typing import Any

import orjson

from tokenmill.errors import UserError
from tokenmill.store import ArtifactStore
from tokenmill.tracking import read_events


def reasons(verdict: Mapping[str, Any]) -> list[str]:
    """The checks that failed, with what was found."""
    return [f"{check['name']}: {check['why']}" for check in verdict["checks"] if not check["passed"]]


def refusal(store: ArtifactStore, run: str) -> str:
    """What the run's last verdict refused and why; empty where it passed, or where no gate was reached."""
    judged = [e for e in read_events(store, run) if e.kind == "step_finished" and e.data["step"] == "evaluation.gate"]
    if not judged:
        return ""
    try:
        manifest = store.get_manifest(judged[-1].data["outputs"]["output"]["digest"])
        verdict = orjson.loads(store.get_blob(manifest.shard("verdict.json").blob))
    except UserError:  # collected meanwhile: the run ends without
        return ""
    if verdict["passed"]:
        return ""
    return f"the gate refused {verdict['label']}, and nothing was released. " + "; ".join(reasons(verdict))
