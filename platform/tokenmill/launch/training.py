"""From a training step to its ranks and back: spec.json out, result.json or failure.json in."""

import logging
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from tokenmill.errors import Interrupted, StepFailed, UserError
from tokenmill.launch.application import dry_run
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps.context import StepContext
from tokenmill.steps.registry import Definition
from tokenmill.training.diagnosis import diagnose, diagnose_signal, last_lines
from tokenmill.training.settings import TrainingExecution

if TYPE_CHECKING:
    from tokenmill.training.messages import Failure
    from tokenmill.training.watchdog import Watchdog

LOG_LINE = '{"time":'
"""How a line of a rank's structured log begins; the step's log takes it over."""
_KILLED = re.compile(r"rank\s*: (\d+) .*\n\s*exitcode\s*: -(\d+) ")
"""A rank that died of a signal, in torchrun's account of a failure."""


def launch_training(
    definition: Definition, config: Any, inputs: Mapping[str, Sequence[Manifest]], ctx: StepContext
) -> dict[str, Draft]:
    """Start the ranks, hold the lease while they train, and read what they publish.

    Raises:
        StepFailed: with the first failing rank's message; its traceback is in the log.
    """
    from tokenmill.training.messages import Failure, Result, Spec
    from tokenmill.training.resume import Layout, outlook
    from tokenmill.training.watchdog import Watchdog

    assert ctx.lease, "training runs under a lease"
    spec = Spec(
        store=ctx.store.uri,
        step=definition.address,
        version=definition.version,
        config=config.model_dump(mode="json", exclude_defaults=True),
        inputs={role: tuple(m.digest for m in manifests) for role, manifests in inputs.items()},
        key=ctx.key,
        attempt=ctx.lease.attempt,
        run=ctx.run,
        task=ctx.events.task,
    )
    ctx.store.backend.put(f"{spec.folder}/spec.json", spec.model_dump_json().encode())
    unused, said = outlook(ctx.store, ctx.key, Layout(config.execution.ranks, config.execution.zero_stage))
    if said:
        (ctx.log.warning if unused else ctx.log.info)(said)
    while True:
        ended = _run(
            spec.uri,
            config.execution,
            Watchdog(ctx.store, spec.folder, config.execution.ranks, config.execution.stuck_after_s),
        )
        ctx.lease.check()
        sys.stderr.writelines(line for line in ended.said.splitlines(keepends=True) if line.startswith(LOG_LINE))
        if ctx.store.backend.exists(f"{spec.folder}/result.json"):
            return Result.model_validate_json(ctx.store.backend.get(f"{spec.folder}/result.json")).outputs
        failure = None
        if ctx.store.backend.exists(f"{spec.folder}/failure.json"):
            failure = Failure.model_validate_json(ctx.store.backend.get(f"{spec.folder}/failure.json"))
        if not failure or not failure.rollback or ended.stopped:
            break
        ctx.log.warning(failure.message)
        ctx.store.backend.delete(f"{spec.folder}/failure.json")
    if failure and not failure.expected:
        ctx.log.error("rank failed first", rank=failure.rank, traceback=failure.traceback)
    raise _explained(definition.address, config.execution.ranks, failure, ended)


class Ended(NamedTuple):
    """How a launch ended."""

    state: str
    said: str
    """What torchrun and the ranks wrote."""
    stopped: bool
    """SIGTERM was passed on to them."""
    stuck: str = ""
    """Which rank held the others up, if they were ended for that."""


def _explained(name: str, ranks: int, failure: "Failure | None", ended: Ended) -> UserError:
    """What to tell a person; a killed rank comes before the others, which only lost their connection to it."""
    if ended.stuck:
        return StepFailed(f"{name}: {ended.stuck}. All ranks were ended: rerun to go on from the newest checkpoint")
    if failure and failure.retry:
        return Interrupted(f"{name}: {failure.message}")
    if failure and failure.expected and not ended.stopped:
        return StepFailed(f"{name}: rank {failure.rank} of {ranks} failed first: {failure.message}")
    if signalled := _signalled(ended.said):
        rank, number = signalled
        told = f"{name}: rank {rank} of {ranks} was killed by signal {number} ({signal.Signals(number).name})"
        if number == signal.SIGKILL:
            return Interrupted(f"{told}: {diagnose_signal(number)}")
        return StepFailed(f"{told}: {diagnose_signal(number)}; last lines:\n{_tail(ended.said)}")
    if ended.stopped:
        return Interrupted(f"{name}: stopped by SIGTERM; rerun to go on from the newest checkpoint")
    if failure:
        told = f"{name}: rank {failure.rank} of {ranks} failed first: {_first_line(failure.message)}"
        known = diagnose(failure.traceback)
        return StepFailed(f"{told}{f' ({known})' if known else ''}; last lines:\n{last_lines(failure.traceback)}")
    told = f"{name}: the ranks ended ({ended.state}) without a word"
    known = diagnose(ended.said)
    return StepFailed(f"{told}{f': {known}' if known else ''}; last lines:\n{_tail(ended.said)}")


def _signalled(said: str) -> tuple[int, int] | None:
    """Rank and signal of the rank that torchrun saw killed; SIGKILL first: no rank sends it, nor gets it from torchrun."""
    seen = [(int(rank), int(number)) for rank, number in _KILLED.findall(said)]
    return min(seen, key=lambda one: one[1] != signal.SIGKILL, default=None)


def _run(uri: str, execution: TrainingExecution, watchdog: "Watchdog") -> Ended:
    """Run torchrun under a torchx AppDef until it ends, or until one of its ranks holds the others up."""
    from torchx.runner import get_runner

    _quiet_torchx()
    stop = _Stop(uri)
    with tempfile.TemporaryDirectory(prefix="tokenmill-launch-") as scratch, stop.listening(), get_runner() as runner:
        info = dry_run(runner, uri, execution, scratch)
        stop.listen()  # torchx has put its own handlers in place
        handle = runner.schedule(info)
        stop.pass_on()
        stuck = ""
        try:
            while (status := runner.status(handle)) and not status.is_terminal() and not stuck:
                time.sleep(0.2)
                stuck = watchdog.look()
        except BaseException:
            runner.cancel(handle)
            raise
        if stuck:
            stop.kill()
            runner.cancel(handle)  # where they are not our processes
        said = _read_logs(Path(scratch) / "logs")
        return Ended(str(status.state if status else "unknown"), said, stop.told, stuck)


class _Stop:
    """SIGTERM, passed on to torchrun once, which tells its ranks and gives them time for a checkpoint.

    torchx would give them ten seconds and raise.
    """

    def __init__(self, uri: str) -> None:
        self.uri, self.told = uri, False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals as they were, afterwards: a process may run more than one step."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _on_sigterm(self, *_: object) -> None:
        if not self.told:
            self.told = True
            self.pass_on()

    def pass_on(self) -> None:
        """To torchrun, if it runs and there is something to pass on."""
        for torchrun in self._torchrun() if self.told else ():
            torchrun.terminate()

    def kill(self) -> None:
        """End torchrun, and with it the ranks, which the kernel kills then: one that is stopped heeds nothing else."""
        for torchrun in self._torchrun():
            torchrun.kill()

    def _torchrun(self) -> Iterator[psutil.Process]:
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                if self.uri in child.cmdline():
                    yield child


def _quiet_torchx() -> None:
    """Where the root logger shows INFO, torchx would tell of every call and poll of the runner."""
    logging.getLogger("torchx").setLevel(logging.WARNING)
    logging.getLogger("torchx-events-null").disabled = True  # torchx sets the level of this one itself


def _read_logs(logs: Path) -> str:
    return "".join(p.read_text(errors="replace") for p in sorted(logs.rglob("std*.log")) if p.is_file())


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].rstrip(".")


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.splitlines()[-lines:])
