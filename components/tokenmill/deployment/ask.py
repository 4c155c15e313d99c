"""Does a served model answer as its users need it? What `helm test` runs, and a first chat from a shell.

python -m tokenmill.deployment.ask http://127.0.0.1:8000 chat --prompt "What is 7 + 5?"        the key comes from API_KEY

It must name the model, answer, stream an answer to its end, refuse a wrong key where one is set, and say which
model it is.
"""

import os
import sys
from typing import Annotated, Any

import requests
import typer

from tokenmill.deployment.client import sse_events
from tokenmill.deployment.observe import DIGEST_HEADER, Prober
from tokenmill.errors import UserError, told_in_one_line
from tokenmill.serving import EngineError


class Refused(UserError):
    """The server did not do what it should."""


def ask(
    url: str,
    model: str,
    prompt: str,
    *,
    key: str = "",
    digest: str = "",
    patience_s: float = 60,
    max_tokens: int = 32,
) -> str:
    """The answer of a server that does all that it should; the first thing that is wrong is raised as `Refused`.

    Args:
        url: of the server, without /v1.
        model: the name that requests use.
        prompt: what is asked, greedily.
        key: the Bearer key; empty: the server wants none.
        digest: of the model that must answer; empty: any.
        patience_s: seconds until it must be ready.
        max_tokens: that the answer may have.
    """
    Prober(model, ()).wait(url, patience_s)
    with requests.Session() as http:
        http.trust_env = False
        chats, body = f"{url}/v1/chat/completions", _body(model, prompt, max_tokens)
        if key:
            wrong = http.post(chats, json=body, headers={"Authorization": "Bearer wrong"}, timeout=60)
            _require(wrong.status_code == 401, f"a wrong key is answered with {wrong.status_code}, not 401")
            http.headers["Authorization"] = f"Bearer {key}"
        named = [one["id"] for one in _json(http.get(f"{url}/v1/models", timeout=60))["data"]]
        _require(model in named, f"the server names {', '.join(named)}, not {model}")
        response = http.post(chats, json=body, timeout=120)
        answer = str(_json(response)["choices"][0]["message"]["content"])
        found = response.headers.get(DIGEST_HEADER, "none")
        _require(not digest or found == digest, f"{DIGEST_HEADER} is {found}, wanted {digest}")
        streamed = _stream(http, chats, body)
        # not equal: on a GPU a prompt that is read from the prefix cache may round another way
        _require(bool(streamed) == bool(answer), f"streamed {streamed!r}, at once {answer!r}")
    return answer


def _body(model: str, prompt: str, max_tokens: int) -> dict[str, object]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}


def _stream(http: requests.Session, url: str, body: dict[str, object]) -> str:
    with http.post(url, json=body | {"stream": True}, stream=True, timeout=120) as response:
        _require(response.ok, f"a stream is answered with {response.status_code}")
        try:
            events = list(sse_events(response.iter_lines()))
        except EngineError as broken:
            raise Refused(str(broken)) from None
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


def _json(response: requests.Response) -> dict[str, Any]:
    _require(response.ok, f"{response.request.method} {response.url} is answered with {response.status_code}")
    return dict(response.json())


def _require(fine: bool, otherwise: str) -> None:
    if not fine:
        raise Refused(otherwise)


def main(
    url: Annotated[str, typer.Argument(help="of the server, without /v1")],
    model: Annotated[str, typer.Argument(help="served name")],
    prompt: Annotated[str, typer.Option(help="what to ask")] = "What is 7 + 5?",
    digest: Annotated[str, typer.Option(help="of the model that must answer")] = "",
    patience: Annotated[float, typer.Option(help="seconds until it must be ready")] = 60,
) -> None:
    """Ask a served model, and see that it does what its users need."""
    with told_in_one_line():
        try:
            answer = ask(url, model, prompt, key=os.environ.get("API_KEY", ""), digest=digest, patience_s=patience)
        except requests.RequestException as broken:
            raise Refused(f"{url} broke off: {broken}") from None
    sys.stdout.write(f"asked     {prompt}\nanswered  {answer}\n")


if __name__ == "__main__":
    typer.run(main)
