"""What a rollout sees of a track: probes, asked as a user would, and users' own requests as Prometheus counted them."""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

import requests
from pydantic import Field

from tokenmill.deployment.canary import Probed, Seen, p95
from tokenmill.errors import UserError
from tokenmill.manifest import Frozen

DIGEST_HEADER = "x-model-digest"


class Probe(Frozen):
    """A question with an answer that a regular expression knows."""

    prompt: str
    expect: str = Field(description="searched in the answer; `.` asks only for an answer")
    max_tokens: int = Field(32, ge=1)


class Prometheus(Frozen):
    """Where users' requests are counted, and which of them are this release's."""

    url: str
    selector: str = Field(description='label matchers, e.g. namespace="chat",service="chat-inference-metrics"')


@dataclass(frozen=True)
class _Asked:
    ok: bool
    right: bool = False
    ttft: float | None = None
    gaps: tuple[float, ...] = ()
    digest: str | None = None


class Prober:
    """Asks both tracks the same questions, in turn, so that what slows the machine slows both."""

    def __init__(self, model: str, probes: Sequence[Probe], *, key: str = "", timeout_s: float = 60):
        self.model, self.probes, self.timeout_s = model, probes, timeout_s
        self._http = requests.Session()
        self._http.trust_env = False  # Services of the cluster: by no proxy, and with no .netrc's key for ours
        if key:
            self._http.headers["Authorization"] = f"Bearer {key}"

    def wait(self, url: str, patience_s: float) -> None:
        """Return when the track is healthy; `UserError` if it is not within `patience_s`."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                if self._http.get(f"{url}/health", timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            if time.monotonic() > deadline:
                raise UserError(f"{url} was not healthy within {patience_s:.0f} s")
            time.sleep(1)

    def compare(self, stable: str, candidate: str, rounds: int = 1) -> Probed:
        """Every probe `rounds` times at both addresses; a question counts as right if it was right every time."""
        asked = [(self._ask(stable, p), self._ask(candidate, p)) for _ in range(rounds) for p in self.probes]
        count = len(self.probes)
        right = [
            tuple(all(asked[r * count + q][track].right for r in range(rounds)) for q in range(count))
            for track in (0, 1)
        ]
        digests = {new.digest for _, new in asked if new.ok}
        seen = [_seen([pair[track] for pair in asked]) for track in (0, 1)]
        return Probed(seen[0], seen[1], right[0], right[1], digests.pop() if len(digests) == 1 else None)

    def _ask(self, url: str, probe: Probe) -> _Asked:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": probe.prompt}],
            "temperature": 0,
            "max_tokens": probe.max_tokens,
            "stream": True,
        }
        began, arrivals, words, done = time.monotonic(), list[float](), list[str](), False
        try:
            with self._http.post(
                f"{url}/v1/chat/completions", json=body, stream=True, timeout=self.timeout_s
            ) as response:
                response.raise_for_status()
                for line in response.iter_lines():
                    data = line.removeprefix(b"data:").strip()
                    if not line.startswith(b"data:") or not data:
                        continue
                    if data == b"[DONE]":
                        done = True
                        break
                    if text := _text(data):
                        arrivals.append(time.monotonic())
                        words.append(text)
        except (requests.RequestException, ValueError, KeyError, TypeError):
            return _Asked(ok=False)
        gaps = tuple(b - a for a, b in pairwise(arrivals))
        right = done and re.search(probe.expect, "".join(words)) is not None
        ttft = arrivals[0] - began if arrivals else None
        return _Asked(done, right, ttft, gaps, response.headers.get(DIGEST_HEADER))


def _text(data: bytes) -> str:
    choices = json.loads(data)["choices"]
    return str(choices[0]["delta"].get("content") or "") if choices else ""


def _seen(asked: Sequence[_Asked]) -> Seen:
    return Seen(
        requests=len(asked),
        errors=sum(not one.ok for one in asked),
        ttft_p95=p95([one.ttft for one in asked if one.ttft is not None]),
        itl_p95=p95([gap for one in asked for gap in one.gaps]),
    )


def traffic(prometheus: Prometheus, window_s: int) -> tuple[Seen, Seen]:
    """Users' requests of the last `window_s` seconds on (stable, candidate)."""
    return _counted(prometheus, "stable", window_s), _counted(prometheus, "candidate", window_s)


def _counted(prometheus: Prometheus, track: str, window_s: int) -> Seen:
    where, window = f'{prometheus.selector},track="{track}"', f"[{window_s}s]"
    asked = f'http_requests_total{{{where},handler=~"/v1/.*"'
    return Seen(
        requests=round(_number(prometheus.url, _increase(f"{asked}}}", window_s)) or 0),
        errors=round(_number(prometheus.url, _increase(f'{asked},status=~"5.."}}', window_s)) or 0),
        ttft_p95=_number(prometheus.url, _p95("vllm:time_to_first_token_seconds", where, window)),
        itl_p95=_number(prometheus.url, _p95("vllm:inter_token_latency_seconds", where, window)),
    )


def _increase(series: str, window_s: int) -> str:
    """What was counted in the window. A series appears with its first request, and `increase` does not count that one."""
    since = f"sum(increase({series}[{window_s}s]))"
    first = f"sum(min_over_time({series}[{window_s}s]) unless {series} offset {window_s}s)"
    return f"(({since}) or vector(0)) + (({first}) or vector(0))"


def _p95(histogram: str, where: str, window: str) -> str:
    return f"histogram_quantile(0.95, sum by (le) (rate({histogram}_bucket{{{where}}}{window})))"


def _number(url: str, query: str) -> float | None:
    """An instant query's single value; None where there is none."""
    try:
        answer = requests.get(f"{url.rstrip('/')}/api/v1/query", params={"query": query}, timeout=30)
        answer.raise_for_status()
        result = answer.json()["data"]["result"]
    except (requests.RequestException, ValueError, KeyError) as error:
        raise UserError(f"Prometheus at {url} did not answer {query!r}: {error}") from None
    value = float(result[0]["value"][1]) if result else float("nan")
    return value if isfinite(value) else None
