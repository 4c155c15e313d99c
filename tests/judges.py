"""A judge behind a real HTTP server that speaks OpenAI's chat protocol, and judges by rules that are known here."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Judges(ThreadingHTTPServer):
    """Its models are rules: `longer` prefers the longer answer, `plain` the one without thanks, `first` what it reads first,
    `length` rates by length."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.failures, self.key, self.moved = [], [], None, None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body, self.headers.get("Authorization")))
        if self.server.moved:
            self.send_response(308)
            self.send_header("Location", self.server.moved)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if self.server.failures:
            return self.answer(self.server.failures.pop(0), {"error": "busy"})
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            return self.answer(401, {"error": "no key"})
        said = judged(body["model"], body["messages"][0]["content"])
        if said is None:
            return self.answer(404, {"error": "no such model"})
        document = (
            {"choices": [{"message": {"role": "assistant", "content": said}}]} if said != "nonsense" else {"hello": 1}
        )
        return self.answer(200, document)

    def answer(self, code, document):
        data = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def judged(model, prompt):
    part = lambda name: re.search(rf"\[{name}\]\n(.*?)\n\[End", prompt, re.DOTALL)[1]  # noqa: E731
    if model == "longer":
        a, b = len(part("Answer of A")), len(part("Answer of B"))
        return f"As asked for as [[A]] or [[B]].\nVerdict: [[{'A' if a > b else 'B' if b > a else 'C'}]]"
    if model == "plain":
        a, b = ("Thank you so much" in part(f"Answer of {name}") for name in "AB")
        return "[[C]]" if a == b else "[[B]]" if a else "[[A]]"
    return {
        "reorders": lambda: " ".join(reversed(re.split(r"(?<=[.?]) ", prompt.rpartition("\n")[2]))),
        "first": lambda: "[[A]]",
        "silent": lambda: "I cannot say.",
        "length": lambda: f"Rating in the form [[5]]: [[{len(part('Answer'))}]]",
        "half": lambda: "[[7.5]]",
        "nonsense": lambda: "nonsense",
    }.get(model, lambda: None)()


@contextmanager
def judges():
    with Judges() as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()
