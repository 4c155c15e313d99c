"""Any server that speaks OpenAI's protocol, asked over HTTP: again while it is busy, and in one line when it refuses."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenmill.errors import InputError, UserError

if TYPE_CHECKING:
    import requests


@dataclass(frozen=True)
class Server:
    """A server and how patient we are with it."""

    url: str
    """With `/v1` or without."""
    key: str
    """Environment variable with its key, where it wants one."""
    called: str = "server"
    """What errors call it."""
    timeout_s: float = 120.0
    tries: int = 3
    """Of a question that the server could not answer: busy, or away."""
    pause_s: float = 0.2
    """Before the second try; four times as long before each further one."""
    _http: "requests.Session" = field(default_factory=lambda: _session(), repr=False)

    def get(self, path: str) -> Any:
        """`/models`: JSON. Raises UserError as `post`."""
        return self._asked("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that a path below `/v1` answers with.

        Raises:
            UserError: the server stays away, refuses, or does not answer with JSON.
        """
        return self._asked("POST", path, body)

    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        import requests

        if self.tries < 1:
            raise InputError(f"the {self.called} at {self.url} was never asked: tries is {self.tries}")
        url = f"{self.url.rstrip('/').removesuffix('/v1')}/v1{path}"
        for turn in range(self.tries):
            last = turn == self.tries - 1
            try:
                answer = self._http.request(
                    method, url, json=body, auth=self._keyed, timeout=self.timeout_s, allow_redirects=False
                )
            except requests.RequestException as away:
                if last:
                    raise UserError(f"the {self.called} at {self.url} does not answer: {type(away).__name__}") from None
            else:
                if last or not (answer.status_code == 429 or answer.status_code >= 500):
                    return self._json(answer, body)
            time.sleep(self.pause_s * 4**turn)
        raise AssertionError("the last try returns or raises")

    def _keyed(self, request: "requests.PreparedRequest") -> "requests.PreparedRequest":
        """With the server's key, if there is one. As requests' `auth`, in whose place it would take a `.netrc`'s password
        for that host, in front of any header; nor is a redirect followed, for which it looks there again."""
        if key := os.environ.get(self.key):
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    def _json(self, answer: "requests.Response", body: Mapping[str, Any] | None) -> Any:
        if answer.status_code != 200:
            advice = f"; set {self.key}" if answer.status_code in (401, 403) else ""
            if elsewhere := answer.headers.get("Location"):
                advice = f"; it is at {elsewhere}"
            refused = f" model {body['model']}" if body and "model" in body else ""
            raise UserError(
                f"the {self.called} at {self.url} refuses{refused}: HTTP {answer.status_code}{advice}{_reason(answer)}"
            )
        try:
            return answer.json()
        except ValueError:
            raise UserError(f"the {self.called} at {self.url} does not speak OpenAI's protocol") from None


def _session(connections: int = 64) -> "requests.Session":
    """Connections that stay open for threads that ask together."""
    import requests

    made = requests.Session()
    for scheme in ("http://", "https://"):
        made.mount(scheme, requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=connections))
    return made


def _reason(answer: "requests.Response") -> str:
    """What the server says is wrong, in front of which a colon stands; nothing where it says nothing."""
    try:
        told = answer.json()
        said = told["error"]["message"]
    except (ValueError, LookupError, TypeError):
        return ""
    return f": {' '.join(str(said).split())[:300]}"
