"""preStop of the engine: `drain.py METRICS_URL ENDPOINT_SECONDS LONGEST_SECONDS`

A pod that must go is first taken out of the Service, which every proxy hears at its own time; so it waits a little before it
looks. Then it waits until no request runs or waits, and at most as long as the longest request may take. Only after this hook
does the kubelet send SIGTERM, at which vLLM aborts what still runs. Standard library only: it runs in vLLM's image.
"""

import re
import sys
import time
import urllib.request

RUNNING = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


def requests_left(url):
    """Requests in the engine; None if it does not tell."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  the pod itself
            return sum(float(value) for value in RUNNING.findall(answer.read().decode()))
    except OSError:
        return None


def drain(url, endpoint_s, longest_s):
    """Return when nothing is left, when the time is over, or when the engine is gone."""
    time.sleep(endpoint_s)
    deadline, silent = time.monotonic() + longest_s, 0
    while time.monotonic() < deadline and silent < 3:
        left = requests_left(url)
        if left == 0:
            return
        silent = silent + 1 if left is None else 0
        time.sleep(0.5)


if __name__ == "__main__":
    drain(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
