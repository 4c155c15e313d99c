"""Code that a model wrote, judged by running it with its test: in the sandbox, and nowhere else."""

import re
import secrets
from typing import NamedTuple

from tokenmill.sandbox import Limits, run

LIMITS = Limits(wall_s=10.0, cpu_s=5, memory=1 << 30)
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_BEGINS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\n```", "\nassert ")
"""Where a completion that was to be one function has gone on to something else (Chen et al. 2021, §3.1, and fences)."""


class Outcome(NamedTuple):
    passed: bool
    reason: str
    """`passed`, the error's last line, or the limit that was met."""


def program(question: str, said: str) -> str:
    """What the model wrote as a program: the code in its fence, or what completes the question."""
    if fenced := _FENCE.search(said):
        return fenced[1] if re.search(r"^\s*(?:def|class) ", fenced[1], re.MULTILINE) else question + fenced[1]
    ends = [end for begin in _BEGINS if (end := f"\n{said}".find(begin, 1)) > 0]
    return question + (said[: min(ends) - 1] if ends else said)


def check(question: str, said: str, test: str, limits: Limits = LIMITS) -> Outcome:
    """Whether the program ends as its test wants.

    That it ended with 0 proves nothing: it may have left before the test. So a word drawn here must come last;
    a program would have to look for it in its own file to say it.

    Raises:
        SandboxError: this machine cannot run it safely.
    """
    word = secrets.token_hex(16)
    ran = run(f"{program(question, said)}\n{test}\nprint({word!r})\n", limits=limits)
    if ran.status == "ok" and ran.stdout.endswith(f"{word}\n"):
        return Outcome(True, "passed")
    if ran.status == "ok":
        return Outcome(False, "it ended before its test did")
    last = (ran.stderr.strip().splitlines() or [f"exit code {ran.exit_code}"])[-1]
    return Outcome(False, last if ran.status == "error" else f"{ran.status} limit")
