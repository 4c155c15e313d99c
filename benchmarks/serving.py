"""Streams to many users at once, from a release behind our command line and from a plain `vllm serve` of the same files.

Both are the same engine with the same memory for keys and values; what differs is what we add: a Bearer key, the header with
the model's digest, and the drain before a stop. They take turns on one machine, an engine at a time. `drain` ends the engine
in the middle: the chart's preStop hook, then SIGTERM, while clients stream.

    python benchmarks/serving.py load|drain|no_drain|all --seconds 120 [--json]
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from rows import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from checkpoints import reciting_llama  # noqa: E402

from tokenmill.deployment.load import Crowd  # noqa: E402
from tokenmill.deployment.server import ENGINE, free_port  # noqa: E402
from tokenmill.serving import engine_environment, serve_python  # noqa: E402

CLIENTS = 200
KEY = "the-key"
FILES = ROOT / "helm" / "inference" / "files"
FLAGS = [
    "--dtype=float32",
    "--enforce-eager",
    "--distributed-executor-backend=uni",
    "--kv-cache-memory-bytes=268435456",
]
table = Table(__doc__ or "", "seconds", 120, "seconds that clients go on asking")


@contextmanager
def engine(folder: Path, ours: bool) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An engine on loopback, as our chart starts it or plainly; its address and process."""
    port = free_port()
    command = [str(serve_python()), "-m", ENGINE, f"--model={folder}", "--served-model-name", "chat", *FLAGS]
    command += ["--host=127.0.0.1", f"--port={port}"]
    environment = engine_environment()
    if ours:
        command += ["--middleware=model_digest.ModelDigest", "--disable-uvicorn-access-log"]
        environment |= {"VLLM_API_KEY": KEY, "PYTHONPATH": str(FILES), "MODEL_DIGEST": "d" * 64}
    with (folder.parent / "vllm.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 300
        while not _healthy(f"http://127.0.0.1:{port}"):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((folder.parent / "vllm.log").read_text()[-2000:])
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()


def _healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.RequestException:
        return False


@table.row
def load(seconds: int) -> dict[str, Any]:
    """Both servers, one after the other."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as room:
        folder = reciting_llama(Path(room) / "chat", "Token")
        for name, ours in (("tokenmill", True), ("vllm serve", False)):
            with engine(folder, ours) as (url, _):
                asyncio.run(Crowd(url, "chat", 8, KEY if ours else "").ask(3))  # warm
                seen = asyncio.run(Crowd(url, "chat", CLIENTS, KEY if ours else "").ask(seconds))
            found |= {f"{name}: {what}": value for what, value in seen.to_json().items()}
            print(name, seen.to_json(), file=sys.stderr, flush=True)
    return found


@table.row
def drain(seconds: int) -> dict[str, Any]:
    """A stop in the middle: the pod leaves the Service, the hook waits, then SIGTERM."""
    return _stopped(min(seconds, 20), hook=True)


@table.row
def no_drain(seconds: int) -> dict[str, Any]:
    """The same without the hook: what it is there for."""
    return _stopped(min(seconds, 20), hook=False)


def _stopped(seconds: int, hook: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as room:
        folder = reciting_llama(Path(room) / "chat", "Token")
        with engine(folder, ours=True) as (url, process):
            crowd, told = Crowd(url, "chat", CLIENTS, KEY, max_tokens=64), dict[str, Any]()

            def stop() -> None:
                time.sleep(seconds / 2)
                crowd.close()
                began = time.monotonic()
                if hook:
                    command = [sys.executable, str(FILES / "drain.py"), f"{url}/metrics", "0", "300"]
                    subprocess.run(command, check=True)
                    told["seconds of the hook"] = round(time.monotonic() - began, 2)
                process.terminate()

            stopping = threading.Thread(target=stop)
            stopping.start()
            seen = asyncio.run(crowd.ask(seconds))
            stopping.join()
            process.wait(60)
    found = {key: value for key, value in seen.to_json().items() if key in ("requests", "lost", "why")} | told
    print("hook" if hook else "no hook", found, file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    table.main()
