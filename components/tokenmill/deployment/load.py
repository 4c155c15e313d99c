"""Many users at once: does a server lose a request, and how long do its users wait?

python -m tokenmill.deployment.load http://127.0.0.1:8000 chat --clients 200 --seconds 120     the key comes from API_KEY

Every client asks, reads its stream to the end, and asks again, until the time is over; what runs then is read to its end. A
request is lost if it was refused, broke off, or ended without `[DONE]`. TTFT is from sending a request to its first text,
ITL between two pieces of one answer, both as a client sees them.
"""

import asyncio
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import orjson
import typer

from tokenmill.errors import told_in_one_line

PROMPTS = ("What is 7 + 5?", "Hello", "Tell me a tale of a king.", "def f(x):", "你好！")


@dataclass
class Seen:
    """What the clients saw. Times are seconds."""

    whole: int = 0
    pieces: int = 0
    """Of text, as they came: a token, unless it is special or only a part of a character."""
    lost: Counter[str] = field(default_factory=Counter)
    """Why → how many."""
    ttft: list[float] = field(default_factory=list)
    itl: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Counts, rates, and percentiles in milliseconds."""
        told: dict[str, Any] = {"requests": self.whole + self.lost.total(), "lost": self.lost.total()}
        told |= {"why": dict(self.lost)} if self.lost else {}
        told |= {"seconds": round(self.seconds, 1), "requests_per_s": self.whole / self.seconds}
        told["pieces_per_s"] = self.pieces / self.seconds
        for name, values in (("ttft", self.ttft), ("itl", self.itl)):
            told |= {f"{name}_ms_p{p}": round(percentile(values, p) * 1000, 1) for p in (50, 95, 99)}
        return told


@dataclass
class Crowd:
    """Clients of one server.

    Args:
        url: of the server, without /v1.
        model: the name that requests use.
        clients: streams that are open at a time.
        key: Bearer key; empty: the server wants none.
        max_tokens: of an answer; it is made as long as that, so that answers are alike.
        seed: of who asks what.
    """

    url: str
    model: str
    clients: int
    key: str = ""
    max_tokens: int = 32
    seed: int = 0
    seen: Seen = field(default_factory=Seen)
    _closed: bool = False

    def close(self) -> None:
        """Let nobody ask again; who was answered is answered to the end. What a Service does that lets a pod go."""
        self._closed = True

    async def ask(self, seconds: float) -> Seen:
        """All clients, for so long."""
        import aiohttp

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        began = time.monotonic()
        connections = aiohttp.TCPConnector(limit=self.clients)
        patience = aiohttp.ClientTimeout(total=None, sock_read=300)
        async with aiohttp.ClientSession(headers=headers, connector=connections, timeout=patience) as http:
            await asyncio.gather(*(self._client(http, number, began + seconds) for number in range(self.clients)))
        self.seen.seconds = time.monotonic() - began
        return self.seen

    async def _client(self, http: Any, number: int, until: float) -> None:
        draw = random.Random(self.seed * 10_000 + number)
        while time.monotonic() < until and not self._closed:
            if why := await self._stream(http, draw.choice(PROMPTS)):
                self.seen.lost[why] += 1
                await asyncio.sleep(0.2)  # a server that is gone is not asked a thousand times a second
            else:
                self.seen.whole += 1

    async def _stream(self, http: Any, prompt: str) -> str:
        """One request; why it was lost, empty if it was not."""
        import aiohttp

        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "stream": True}
        body |= {"max_tokens": self.max_tokens, "ignore_eos": True, "temperature": 0.7}
        sent, last, done = time.monotonic(), 0.0, False
        try:
            async with http.post(f"{self.url}/v1/chat/completions", json=body) as answer:
                if answer.status != 200:
                    return f"HTTP {answer.status}"
                async for line in answer.content:
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        done = True
                        break
                    event = orjson.loads(data)
                    if "error" in event:
                        return "the server gave up"
                    if not event["choices"] or "role" in event["choices"][0]["delta"]:
                        continue
                    now = time.monotonic()
                    (self.seen.itl if last else self.seen.ttft).append(now - (last or sent))
                    last, self.seen.pieces = now, self.seen.pieces + 1
        except (aiohttp.ClientError, TimeoutError, ValueError) as broken:
            return type(broken).__name__
        return "" if done else "without [DONE]"


def percentile(values: Sequence[float], share: int) -> float:
    """The value that `share` percent do not exceed; nan of none."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def main(
    url: Annotated[str, typer.Argument(help="of the server, without /v1")],
    model: Annotated[str, typer.Argument(help="served name")],
    clients: Annotated[int, typer.Option(help="streams at a time")] = 200,
    seconds: Annotated[float, typer.Option(help="how long they go on asking")] = 120,
    max_tokens: Annotated[int, typer.Option(help="of every answer")] = 32,
) -> None:
    """Stream to many clients; exit code 1 if a request was lost."""
    with told_in_one_line():
        crowd = Crowd(url.rstrip("/"), model, clients, os.environ.get("API_KEY", ""), max_tokens)
        seen = asyncio.run(crowd.ask(seconds))
    typer.echo(orjson.dumps(seen.to_json(), option=orjson.OPT_INDENT_2).decode())
    raise typer.Exit(1 if seen.lost else 0)


if __name__ == "__main__":
    typer.run(main)
