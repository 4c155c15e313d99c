"""vLLM as a child process: what a step, a test or a person's shell serves a checkpoint folder with, and talks to.

On a cluster the inference chart runs the same server; this is for one machine and listens on loopback only.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from tokenmill.deployment import guard
from tokenmill.errors import InputError
from tokenmill.serving import (
    EngineError,
    decisive_line,
    engine_environment,
    last_line,
    serve_python,
    serving_available,
)

_ENGINE_FLAGS = ["--enforce-eager", "--distributed-executor-backend=uni", "--disable-uvicorn-access-log", "--seed=0"]

_STEP = re.compile(r"^\(\w+ pid=\d+\) INFO [^\]]*\] (\S.*)")
_GRACE_S = 5  # from SIGTERM to SIGKILL
_PORT_TAKEN = "Address already in use"


class VLLMServer:
    """`with VLLMServer(folder, log=…) as server: server.chat([...])`; the engine ends with the block or this process.

    Args:
        model: folder with config.json, *.safetensors and the tokenizer's files.
        log: file for everything that the engine prints.
        name: model name in requests; default the folder's name.
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
        self.name = name or self.model.name
        self.url = ""
        self.start_timeout_s, self.request_timeout_s, self.drain_s = start_timeout_s, request_timeout_s, drain_s
        self._progress = progress or (lambda line: None)
        self._flags = ["--model", str(self.model), "--served-model-name", self.name, "--dtype", dtype, *_ENGINE_FLAGS]
        self._flags += ["--kv-cache-memory-bytes", str(kv_cache_mib * 2**20)]
        self._flags += [*(["--max-model-len", str(max_model_len)] if max_model_len else []), *flags]
        self._process: subprocess.Popen[bytes] | None = None
        self._http = requests.Session()
        self._http.trust_env = False  # a proxy has no part in loopback

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
            while not self._start_on(_free_port()):
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
        try:
            return self._process is not None and self._http.get(f"{self.url}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def models(self) -> list[str]:
        """Names that requests may use."""
        return [model["id"] for model in self._get("/v1/models").json()["data"]]

    def chat(self, messages: Sequence[Mapping[str, str]], *, stream: bool = True, **sampling: Any) -> str:
        """The assistant's answer. `sampling` are the API's own fields: max_tokens, temperature, top_p, seed, stop…"""
        if stream:
            return "".join(self.stream_chat(messages, **sampling))
        answer = self.post("/v1/chat/completions", {"messages": list(messages), **sampling})
        return str(answer["choices"][0]["message"]["content"])

    def stream_chat(self, messages: Sequence[Mapping[str, str]], **sampling: Any) -> Iterator[str]:
        """The assistant's answer piece by piece, as the engine makes it."""
        body = {"model": self.name, "messages": list(messages), "stream": True, **sampling}
        try:
            with self._http.post(
                f"{self.url}/v1/chat/completions", json=body, stream=True, timeout=self.request_timeout_s
            ) as response:
                self._require_success(response)
                for event in sse_events(response.iter_lines()):
                    for choice in event["choices"]:
                        yield choice["delta"].get("content") or ""
        except requests.RequestException as error:
            raise self._broken_connection(error) from error

    def complete(self, prompt: str | Sequence[int], **sampling: Any) -> str:
        """The continuation of a text, or of token ids."""
        prompt = prompt if isinstance(prompt, str) else list(prompt)
        return str(self.post("/v1/completions", {"prompt": prompt, **sampling})["choices"][0]["text"])

    def tokenize(
        self, messages: str | Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Token ids of a text, or of messages in the checkpoint's chat template with the answer's opening."""
        body: dict[str, Any] = {"prompt": messages} if isinstance(messages, str) else {"messages": list(messages)}
        body |= {"tools": list(tools)} if tools else {}
        return [int(token) for token in self.post("/tokenize", body)["tokens"]]

    def metrics(self) -> dict[str, float]:
        """vLLM's Prometheus counters and gauges, e.g. `vllm:generation_tokens_total`, summed over their labels."""
        from prometheus_client.parser import text_string_to_metric_families

        totals: dict[str, float] = {}
        for family in text_string_to_metric_families(self._get("/metrics").text):
            for sample in family.samples:
                if not sample.name.endswith("_bucket"):
                    totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
        return totals

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Any other request of the API, such as completions with logprobs: JSON in, JSON out."""
        try:
            response = self._http.post(
                f"{self.url}{path}", json={"model": self.name, **body}, timeout=self.request_timeout_s
            )
        except requests.RequestException as error:
            raise self._broken_connection(error) from error
        self._require_success(response)
        return dict(response.json())

    def _get(self, path: str) -> requests.Response:
        try:
            response = self._http.get(f"{self.url}{path}", timeout=self.request_timeout_s)
        except requests.RequestException as error:
            raise self._broken_connection(error) from error
        self._require_success(response)
        return response

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
        engine = [str(serve_python()), "-m", "vllm.entrypoints.openai.api_server"]
        engine += ["--host", "127.0.0.1", "--port", str(port), *self._flags]
        watch = [sys.executable, "-I", guard.__file__, str(os.getpid()), str(_GRACE_S)]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*watch, *engine],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=engine_environment(),
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

    def _failure(self, what: str, printed: str) -> str:
        why = decisive_line(printed) or last_line(printed) or "it printed nothing"
        return f"the inference engine for {self.model} {what}: {why}\n{_see(self.log)}"

    def _broken_connection(self, error: requests.RequestException) -> EngineError:
        if isinstance(error, requests.Timeout):
            return EngineError(f"the inference engine was silent for {self.request_timeout_s:.0f} s\n{_see(self.log)}")
        if self._process is None:
            return EngineError("the inference engine is not running: use `with VLLMServer(…)`, or start()")
        try:
            code = self._process.wait(2)  # the connection breaks a moment before the process is gone
        except subprocess.TimeoutExpired:
            return EngineError(f"the connection to the inference engine broke: {error}\n{_see(self.log)}")
        return EngineError(self._failure(f"died with {code}", self.log.read_text(errors="replace")))

    def _require_success(self, response: requests.Response) -> None:
        if response.ok:
            return
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.text[:300]
        if response.status_code >= 500:
            raise EngineError(f"the inference engine failed ({response.status_code}): {message}\n{_see(self.log)}")
        raise EngineError(f"the inference engine refused the request ({response.status_code}): {message}")


def sse_events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON events of a server-sent stream up to `[DONE]`; `EngineError` where it tells of an error or breaks."""
    for line in lines:
        if not line.startswith(b"data:"):
            continue  # a blank line, a comment, an event name
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if error := event.get("error"):
            raise EngineError(f"the inference engine gave up in the middle of an answer: {error.get('message', error)}")
        yield event
    raise EngineError("the inference engine's answer ended in the middle, without its [DONE]")


def last_step(printed: str) -> str:
    """What vLLM's own log said last, without its prefix."""
    return next((said[1][:120] for line in reversed(printed.splitlines()) if (said := _STEP.match(line))), "")


def _see(log: Path) -> str:
    return f"           Its log: {log}"


def _tail(path: Path, size: int = 4096) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors="replace")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
