"""What `tokenmill doctor` looks at."""

import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from tokenmill.errors import UserError


class Finding(NamedTuple):
    """One thing that is there, or how to get it."""

    name: str
    ok: bool
    what: str
    fix: str = ""
    required: bool = True


def examine(store_uri: str) -> list[Finding]:
    """Every finding, cheapest first."""
    return [
        *_python(),
        *(_module(name, fix, required) for name, fix, required in _MODULES),
        _store(store_uri),
        _tracking(),
        _serving(),
        *_sandbox(),
        *(_program(name, fix) for name, fix in _PROGRAMS),
        _disk(),
    ]


_TRAIN = "pip install -c constraints.txt -e '.[train]'"
_MODULES = [
    ("kfp", "pip install -c constraints.txt -e .", True),
    ("mlflow", "pip install -c constraints.txt -e .", True),
    ("torch", _TRAIN, True),
    ("deepspeed", _TRAIN, True),
    ("flash_attn", "pip install -e '.[flash]' on a machine with CUDA; without it torch's own kernels are used", False),
]
_PROGRAMS = [
    ("docker", "for image tests: apt-get install docker.io"),
    ("chromium", "for the report's browser test: apt-get install chromium"),
    ("promtool", "for rule tests: apt-get install prometheus"),
]


def _python() -> list[Finding]:
    version = platform.python_version()
    return [Finding("python", sys.version_info >= (3, 11), version, "install Python 3.11")]


def _module(name: str, fix: str, required: bool) -> Finding:
    found = importlib.util.find_spec(name) is not None
    return Finding(name, found, "installed" if found else "not installed", fix, required)


def _store(uri: str) -> Finding:
    from tokenmill.store import open_store

    try:
        open_store(uri).check()
        return Finding("store", True, uri)
    except UserError as wrong:
        return Finding("store", False, str(wrong), "set TOKENMILL_STORE, TOKENMILL_S3_ENDPOINT and the AWS_ keys")


def _tracking() -> Finding:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return Finding("mlflow tracking", True, "sqlite beside the store (MLFLOW_TRACKING_URI is not set)")
    from tokenmill.tracking.connection import require_answer, without_userinfo

    try:
        require_answer(uri)
        return Finding("mlflow tracking", True, without_userinfo(uri))
    except UserError as away:
        return Finding("mlflow tracking", False, str(away), "start the server or correct MLFLOW_TRACKING_URI")


def _serving() -> Finding:
    from tokenmill.serving import serving_available

    available, reason = serving_available()
    return Finding("vllm", available, reason or "serving environment found", "make serve", required=False)


def _sandbox() -> list[Finding]:
    """What code of a model would run under here: tried, not guessed."""
    from tokenmill.sandbox import BASE, NAMESPACES, SandboxError, run

    fix = "code is run with less only where `required` says so: docs/concepts/sandbox.md"
    try:
        made = run("", required=())
    except SandboxError as refused:
        return [Finding("sandbox", False, str(refused), fix, required=False)]
    found = []
    for name, wanted in (("sandbox", BASE), ("sandbox, namespaces", NAMESPACES)):
        absent = [f"no {part} ({made.missing.get(part, 'not tried')})" for part in sorted(wanted - made.held)]
        what = ", ".join([*sorted(wanted & made.held), *absent])
        found.append(Finding(name, not absent, what, fix, required=False))
    return found


def _program(name: str, fix: str) -> Finding:
    path = shutil.which(name)
    return Finding(name, path is not None, path or "not on PATH", fix, required=False)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free >> 30
    return Finding("disk", free >= 5, f"{free} GiB free here", "the nano run and its environments take about 5 GiB")
