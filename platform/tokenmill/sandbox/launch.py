"""Starting code in a sandbox, from any process: nothing of ours is forked but by a fresh interpreter."""

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from tokenmill.errors import UserError
from tokenmill.sandbox.limits import ALL, BASE, Isolation, Limits, Order, Result, Status
from tokenmill.sandbox.worker import FILES, PLACE

_SYSTEM = ("/bin", "/lib", "/lib32", "/lib64", "/usr", "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime")
_SOURCE = str(Path(__file__).parents[2])
_GUARD = f"import sys; sys.path.append({_SOURCE!r}); from tokenmill.sandbox.guard import main; main(int(sys.argv[1]))"
_GRACE_S = 15.0
"""Beyond the wall limit; a guard that has not told anything by then is killed with all that it holds."""


class SandboxError(UserError):
    """Code cannot be run as safely as was asked; nothing of it has run."""


def run(
    code: str,
    *,
    limits: Limits = Limits(),
    required: Collection[Isolation] = BASE,
    wanted: Collection[Isolation] = ALL,
    readable: Iterable[Path] = (),
) -> Result:
    """Run Python code that nobody trusts, alone, and tell how it ended.

    The code gets this interpreter with its installed packages, an empty environment and a private folder, its current one.

    Args:
        code: a whole program.
        limits: what it may use.
        required: isolations without which nothing is run.
        wanted: isolations that are added where the kernel gives them; `required` is always among them.
        readable: further files and folders that it may read.

    Raises:
        SandboxError: a required isolation cannot be had here, or the interpreter cannot be started within.
    """
    if sys.platform != "linux":
        raise SandboxError(
            f"code runs in a sandbox on Linux only, not on {sys.platform}: run it in a container of ours"
        )
    folder = Path(tempfile.mkdtemp(prefix="tokenmill-sandbox-"))
    try:
        folder.chmod(0o711)  # the code may be somebody else than we are
        (folder / PLACE).mkdir(mode=0o755)
        (folder / FILES).mkdir()
        (folder / FILES / "main.py").write_text(code, "utf-8", newline="")
        (folder / FILES).chmod(0o1777)
        order = Order(
            [os.path.realpath(sys.executable), sys.executable, "-I", "-B", "main.py"],
            str(folder),
            _readable(readable),
            limits,
            sorted(required),
            sorted({*wanted, *required}),
        )
        return _guarded(order)
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """However deep the code has nested it; Python's own way has a function call a level."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        subprocess.run(["rm", "-rf", "--", str(folder)], check=False)


def _readable(more: Iterable[Path]) -> list[str]:
    """Interpreter, libraries, installed packages and what was asked for: existing ones, none beneath another."""
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    given = [*_SYSTEM, sys.prefix, sys.base_prefix, *packages, *map(os.path.abspath, more)]
    found: list[str] = []
    ways = {way for path in given for way in (path, os.path.realpath(path)) if os.path.exists(way)}
    for path in sorted(ways):
        if not any(path.startswith(f"{above}/") for above in found):
            found.append(path)
    return found


def _guarded(order: Order) -> Result:
    report, reporting = os.pipe()
    command = [sys.executable, "-I", "-S", "-B", "-c", _GUARD, str(reporting)]
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(reporting,),
            env={"LANG": "C.UTF-8"},
            start_new_session=True,
        ) as guard:
            os.close(reporting)
            texts, overflowed = _collect(guard, order)
            with open(report, "rb", closefd=False) as told:
                said: dict[str, Any] = json.loads(told.read() or b"{}")
    finally:
        os.close(report)
    return _judged(said, texts, overflowed, order)


def _collect(guard: "subprocess.Popen[bytes]", order: Order) -> tuple[list[bytes], bool]:
    """Hand over the order and take what is said, until all is over; whether it was too much."""
    assert guard.stdin and guard.stdout and guard.stderr
    with contextlib.suppress(BrokenPipeError):  # it has ended already; why stands in what it said
        guard.stdin.write(json.dumps(order.document()).encode() + b"\n")
        guard.stdin.flush()
    found: list[list[bytes]] = [[], []]
    deadline = time.monotonic() + order.limits.wall_s + _GRACE_S
    left = order.limits.output
    with selectors.DefaultSelector() as streams:
        for place, stream in enumerate((guard.stdout, guard.stderr)):
            streams.register(stream, selectors.EVENT_READ, place)
        while streams.get_map():
            ready = streams.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                guard.kill()
                break
            for key, _ in ready:
                some = os.read(key.fd, 1 << 16)
                if not some:
                    streams.unregister(key.fileobj)
                found[key.data].append(some[: max(0, left)])
                left -= len(some)
            if left < 0 and not guard.stdin.closed:
                guard.stdin.close()  # the guard takes that as the end
    return [b"".join(some) for some in found], left < 0


def _judged(said: dict[str, Any], texts: list[bytes], overflowed: bool, order: Order) -> Result:
    stdout, stderr = (text.decode("utf-8", "replace") for text in texts)
    if not said:
        last = (stderr.strip().splitlines() or ["it told nothing"])[-1]
        raise SandboxError(f"the sandbox's guard failed: {last}")
    if "failed" in said:
        raise SandboxError(f"nothing was run: the sandbox could not start {order.argv[0]}: {said['failed']}")
    missing, held = said["missing"], frozenset(said["held"])
    absent = [f"{name} ({missing.get(name, 'unknown')})" for name in order.required if name not in held]
    if absent:
        raise SandboxError(
            f"nothing was run: the sandbox has no {', no '.join(absent)} here; `tokenmill doctor` says what holds"
        )
    limit: Status | None = "output" if overflowed else said["limit"]
    code = said["exit_code"]
    return Result(
        status=limit or ("ok" if code == 0 else "error"),
        exit_code=None if limit else code,
        stdout=stdout,
        stderr=stderr,
        wall_s=said["wall_s"],
        cpu_s=said["cpu_s"],
        peak_memory=said["peak"],
        held=held,
        missing=missing,
    )
