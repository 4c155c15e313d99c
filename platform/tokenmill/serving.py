"""vLLM's own environment, and what of ours an engine that runs in it gets.

It pins other versions than ours, so nothing of vLLM is imported here: an engine is a process of its own, started with the
Python of `.venv-serve`, or with the one that TOKENMILL_SERVE_PYTHON names.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from tokenmill.errors import UserError

SERVE_PYTHON = "TOKENMILL_SERVE_PYTHON"
_REPOSITORY = Path(__file__).resolve().parents[2]
_BESIDE = (_REPOSITORY, Path(sys.prefix).parent, Path.cwd())
_SERVING_ENVIRONMENTS = tuple(folder / ".venv-serve" for folder in _BESIDE)

# An engine loads files from outside, so it gets none of our keys: only these variables go through.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES")
_ENGINE_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # two threads on two shared cores ran at a tenth of the speed of one
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_COLOR": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # "auto" pins every engine on the machine to the same core
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # with the `uni` executor: no worker process, 6 s and 0.5 GB less
}

_LOG_PREFIX = re.compile(r"^(?:\(\w+ pid=\d+\) )?(?:(?:DEBUG|INFO|WARNING|ERROR) \d\d-\d\d [\d:]+ \[[^\]]*\] ?)?")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)(?::|$)|^\w+\.py: error: ")
_AFTERMATH = "Engine core initialization failed"


class EngineError(UserError):
    """The inference engine did not start, died, or refused a request."""


def serve_python() -> Path | None:
    """The serving environment's Python: TOKENMILL_SERVE_PYTHON, or the first `.venv-serve` near."""
    if given := os.environ.get(SERVE_PYTHON):
        return Path(given)
    return next((python for folder in _SERVING_ENVIRONMENTS if (python := folder / "bin" / "python").exists()), None)


def serving_available() -> tuple[bool, str]:
    """Whether an engine can be started here, and if not, why."""
    if not os.environ.get(SERVE_PYTHON):
        for marker in (folder / "unavailable" for folder in _SERVING_ENVIRONMENTS):
            if marker.exists():
                return False, marker.read_text().strip()
    python = serve_python()
    if python is None:
        return False, f"no serving environment: run scripts/serve_env.sh, or set {SERVE_PYTHON}"
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        found = subprocess.run([python, "-I", "-c", look], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, f"{python} does not run: {error}"
    return (True, "") if found else (False, f"{python} has no vllm: run scripts/serve_env.sh, or set {SERVE_PYTHON}")


def serving_packages() -> Path:
    """The folder `site-packages` of the serving environment. Raises EngineError where there is none."""
    look = "import sysconfig; print(sysconfig.get_path('purelib'))"
    try:
        found = subprocess.run(
            [serve_python() or "", "-I", "-c", look], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineError(f"the serving environment does not say where its packages are: {error}") from None
    return Path(found.stdout.strip())


def engine_environment() -> dict[str, str]:
    """The whole environment of an engine's process."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | _ENGINE_ENVIRONMENT


def unprefixed(line: str) -> str:
    """A line of the engine's log without who said it when."""
    return _LOG_PREFIX.sub("", line).rstrip()


def decisive_line(printed: str, limit: int = 300) -> str:
    """The line of the engine's log that says what went wrong: the last exception that is no aftermath of another."""
    lines = [unprefixed(line) for line in printed.splitlines()]
    for number in range(len(lines) - 1, -1, -1):
        line = lines[number]
        if not _EXCEPTION.match(line) or _AFTERMATH in line:
            continue
        if line.endswith(":") or "validation error" in line:  # pydantic and others say it on the following lines
            line = " ".join([line, *(part.strip() for part in lines[number + 1 : number + 5])])
        line = re.sub(
            r".* validation errors? for \w+ (?:Value error, )?| \[type=.*| Supported architectures:.*", "", line
        )
        return line if len(line) <= limit else line[:limit] + "…"
    return ""


def last_line(printed: str) -> str:
    """The last line that says something."""
    return next((line.strip()[:300] for line in reversed(printed.splitlines()) if line.strip()), "")
