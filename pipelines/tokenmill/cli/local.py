"""A pipeline on this machine: kfp.local in one child process, and a line a step for the person who waits.

The child's own output (KFP's logs, the steps' JSON logs) goes to a file; what a person sees comes from the run's events.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from tokenmill.cli.summary import as_text, summarise
from tokenmill.config import is_execution
from tokenmill.errors import EXIT_BAD_INPUT, EXIT_DEFECT, told_in_one_line
from tokenmill.pipelines.opening import EXECUTION, RUN_KEY
from tokenmill.store import ArtifactStore, open_store
from tokenmill.tether import OWNER, die_with_parent, tethered
from tokenmill.tracking import EventFollower, RunRef
from tokenmill.tracking.event_files import Event

POLL_S = 0.5


def run_locally(
    pipeline: str,
    preset: str,
    overrides: Mapping[str, Any],
    arguments: Mapping[str, Any],
    store_uri: str,
    *,
    quiet: bool,
) -> dict[str, Any]:
    """Run to the end; returns status, exit code, run key and where to look."""
    store = open_store(store_uri)
    key = RunRef.new(pipeline, preset).key
    folder = Path.cwd() / ".tokenmill" / "runs" / key
    folder.mkdir(parents=True)
    log = folder / "log.txt"
    execution = {path: value for path, value in overrides.items() if is_execution(path)}
    identity = {path: value for path, value in overrides.items() if path not in execution}
    job = {"pipeline": pipeline, "preset": preset, "arguments": {"overrides": identity} | dict(arguments)}
    started = time.monotonic()
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "tokenmill.cli.local", orjson.dumps(job).decode(), str(folder)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": "1"}
            | os.environ
            | {"TOKENMILL_STORE": store_uri, RUN_KEY: key, EXECUTION: orjson.dumps(execution).decode()}
            | tethered(),
        )
        seen = Narrator(store, key, quiet)
        try:
            while child.poll() is None:
                seen.tell()
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            child.send_signal(signal.SIGTERM)
            child.wait()
            raise
    seen.tell()
    status, exit_code = ("succeeded", 0) if child.returncode == 0 else ("failed", seen.exit_code)
    if status == "failed" and not exit_code:
        said, exit_code = _last_words(log)
        sys.stderr.write(said)
    result = {
        "status": status,
        "exit_code": exit_code,
        "run": key,
        "seconds": round(time.monotonic() - started, 1),
        "log": str(log),
        "store": store_uri,
    }
    if store.backend.exists(f"runs/{key}/run.json"):
        result |= summarise(store, key, folder)
        if not quiet:
            sys.stdout.write(as_text(result) + "\n")
    return result


class Narrator:
    """Prints a line for every finished step."""

    def __init__(self, store: ArtifactStore, key: str, quiet: bool) -> None:
        self.events, self.quiet = EventFollower(store, key), quiet
        self.budgets: dict[str, float | None] = {}
        self.exit_code = 0
        """The failed step's, once one failed."""

    def tell(self) -> None:
        for event in self.events.news():
            if event.kind == "step_started":
                self.budgets[event.task] = event.data["budget_s"]
            elif event.kind == "step_finished":
                self._say(_finished(event, self.budgets.get(event.task)))
            elif event.kind == "step_failed":
                self.exit_code = event.data["exit_code"]
                sys.stderr.write(f"tokenmill: {event.data['message']}\n")

    def _say(self, line: str) -> None:
        if not self.quiet:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def _finished(event: Event, budget_s: float | None) -> str:
    how = {"hit": "cached", "effect": "done", "miss": "done"}[event.data["cache"]]
    outputs = event.data["outputs"]
    first: dict[str, Any] = outputs.get("weights") or outputs[min(outputs)] if outputs else {"counts": {}, "digest": ""}
    told = sorted((name for name in first["counts"] if "/" not in name), key=_reading_order)
    counts = "  ".join(f"{first['counts'][name]:,} {name}" for name in told[:4])
    seconds = event.data["seconds"]
    allowed = f" {'over' if seconds > budget_s else 'of':>4} {budget_s:3.0f} s" if budget_s else ""
    return f"{event.task:<34} {how:<7}{seconds:7.1f} s{allowed}  {first['digest'][:10]:<12}{counts}"


def _reading_order(count: str) -> tuple[int, str]:
    """What went in before what came out; the same for a cached output, whose counts are stored by name."""
    return (_COUNTS.index(count) if count in _COUNTS else len(_COUNTS), count)


_COUNTS = ("in", "records", "documents", "dropped", "rejected")
_WORD = re.compile(r"^\s*(tokenmill: .+|(?:\w+\.)*\w*(?:Error|Exception|Refused)\b.*)$")


def _last_words(log: Path) -> tuple[str, int]:
    """What a task said that failed before its step began, and the exit code for it.

    It is the last error of the log that is not KFP's own.
    """
    found = [m[1] for line in log.read_text(errors="replace").splitlines() if (m := _WORD.match(line))]
    told = [line for line in found if "finished with status" not in line]
    said = told[-1] if told else "the run failed"
    return f"{said}  (see {log})\n", EXIT_BAD_INPUT if said.startswith("tokenmill: ") else EXIT_DEFECT


def _child(job: dict[str, Any], folder: Path) -> int:
    """Compile and run the pipeline under kfp.local."""
    import warnings

    warnings.simplefilter("ignore")
    from kfp import local

    from tokenmill.pipelines.package import build, check_parameters

    die_with_parent()
    os.environ[OWNER] = str(os.getpid())
    with told_in_one_line():
        pipeline = build(job["pipeline"], job["preset"])
        check_parameters(job["pipeline"], pipeline, job["arguments"])
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "kfp"), raise_on_error=True)
    pipeline(**job["arguments"])
    return 0


if __name__ == "__main__":
    sys.exit(_child(orjson.loads(sys.argv[1]), Path(sys.argv[2])))
