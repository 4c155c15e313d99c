"""Ways to have a sandbox, and attempts within, for its tests."""

import json
import subprocess
import textwrap

import pytest

import tokenmill.sandbox as sandbox
from tokenmill.sandbox import BASE, Limits, Result, SandboxError, landlock


def landlocked():
    try:
        return landlock.abi() > 0
    except OSError:
        return False


needs_landlock = pytest.mark.skipif(not landlocked(), reason="this kernel has no Landlock")
NOBODY = 65534
OTHER = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
SYSTEM_PYTHON = "/usr/bin/python3"
DRIVER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from tokenmill.sandbox import Limits, SandboxError, run
asked = json.load(sys.stdin)
try:
    made = run(asked["code"], limits=Limits(**asked["limits"]), required=asked["required"], wanted=asked["wanted"])
    print(json.dumps(made._asdict() | {"held": sorted(made.held)}))
except SandboxError as refused:
    print(json.dumps({"refused": str(refused)}))
"""


class Place:
    """One way to have a sandbox: some user, some isolations."""

    def __init__(self, wanted, source=None, through=()):
        self.wanted, self.source, self.through = wanted, source, through

    def run(self, code, required=BASE, **limits):
        code = textwrap.dedent(code)
        limits = Limits(**limits)
        if not self.source:
            return sandbox.run(code, limits=limits, required=required, wanted=self.wanted)
        asked = {"code": code, "limits": limits._asdict(), "required": [*required], "wanted": [*self.wanted]}
        ran = subprocess.run(
            [*self.through, SYSTEM_PYTHON, "-I", "-c", DRIVER, str(self.source)],
            input=json.dumps(asked), capture_output=True, text=True, cwd="/", timeout=60, **(OTHER if not self.through else {}),
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        told = json.loads(ran.stdout)
        if "refused" in told:
            raise SandboxError(told["refused"])
        return Result(**told | {"held": frozenset(told["held"])})


def own(wanted):
    """The user that the tests run as; a root needs a mount namespace, for its interpreter may be its alone."""
    return Place(wanted)


def said(result):
    """The exceptions that the attempts met, a line each; whatever else came is part of the assertion's message."""
    assert result.status == "ok", result
    return result.stdout.splitlines()


TRY = """
def attempt(do):
    try:
        print("done", do())
    except BaseException as failure:
        print(type(failure).__name__, getattr(failure, "errno", ""), failure)
"""


def attempts(place, lines, before="", **limits):
    code = textwrap.dedent(before) + TRY + "".join(f"attempt(lambda: {line})\n" for line in lines)
    return said(place.run(code, **limits))
