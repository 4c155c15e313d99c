"""A client of vLLM's OpenAI-compatible server, wherever it runs: what smoke tests, benchmarks and `VLLMServer` ask it with."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import requests

from tokenmill.serving import EngineError


class EngineClient:
    """`EngineClient("http://chat.llm.svc", "chat", key=…).chat([{"role": "user", "content": "Hi"}])`.

    Args:
        url: of the server, without /v1.
        name: model name in requests.
        key: Bearer key; empty: the server wants none.
        request_timeout_s: longest silence within a request.
    """

    def __init__(self, url: str, name: str, *, key: str = "", request_timeout_s: float = 120) -> None:
        self.url, self.name, self.key, self.request_timeout_s = url.rstrip("/"), name, key, request_timeout_s
        self._http = requests.Session()
        self._http.trust_env = False  # a proxy has no part in loopback, nor in a cluster's own network
        if key:
            self._http.headers["Authorization"] = f"Bearer {key}"

    def health(self) -> bool:
        """Whether the engine answers now."""
        try:
            return self._http.get(f"{self.url}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def models(self) -> list[str]:
        """Names that requests may use."""
        return [model["id"] for model in self._get("/v1/models").json()["data"]]

    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return next(int(m["max_model_len"]) for m in self._get("/v1/models").json()["data"] if m["id"] == self.name)

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

    def _require_success(self, response: requests.Response) -> None:
        if response.ok:
            return
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.text[:300]
        if response.status_code >= 500:
            raise EngineError(f"the inference engine failed ({response.status_code}): {message}{self._see()}")
        raise EngineError(f"the inference engine refused the request ({response.status_code}): {message}")

    def _broken_connection(self, error: requests.RequestException) -> EngineError:
        if isinstance(error, requests.Timeout):
            return EngineError(f"the inference engine was silent for {self.request_timeout_s:.0f} s{self._see()}")
        return EngineError(f"the connection to the inference engine broke: {error}{self._see()}")

    def _see(self) -> str:
        """Where to look further, as a line of its own."""
        return ""


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
