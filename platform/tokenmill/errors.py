"""Errors a person can act on.

A `UserError` is bad input or a world that is not as it must be: the CLI prints its one clear line (what, where, what to do)
and exits with 2; no stack trace is raised at a person. Everything else is a defect and keeps its traceback.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_DEFECT = 1
EXIT_BAD_INPUT = 2
EXIT_RETRY = 75  # EX_TEMPFAIL: run it again, and it goes on from where it was


class UserError(Exception):
    """Bad input or a missing precondition; the message says what is wrong, where, and what to do."""


class InputError(UserError):
    """Data that cannot be used: an empty source, an unreadable record, a wrong kind of artifact."""


class ConfigError(UserError):
    """An unknown preset or option, or a value out of its range."""


class StoreError(UserError):
    """The store cannot be reached, is full, or refuses."""


class CredentialsError(StoreError):
    """The store or a service refuses the credentials it was given. The message never holds them."""


class CorruptError(UserError):
    """Stored bytes are not what their digest says."""


class StepFailed(UserError):
    """A step's work failed in another process; the message carries the first failure."""


class Interrupted(UserError):
    """The work was told to stop, saved where it was, and goes on when it is run again (exit code 75, EX_TEMPFAIL)."""


class RolledBack(UserError):
    """Training goes on from its newest checkpoint without the steps that spoiled it: start its ranks again."""


class BudgetSpent(UserError):
    """A training's budget of money or patience is used up; it saved where it was."""


class LeaseLost(Exception):
    """Another attempt took the work over: stop at once and publish nothing."""


def exit_code(failure: BaseException) -> int:
    """What a process ends with that failed so."""
    if isinstance(failure, Interrupted | LeaseLost):
        return EXIT_RETRY
    return EXIT_BAD_INPUT if isinstance(failure, UserError) else EXIT_DEFECT


def first_line(error: BaseException) -> str:
    """What a foreign error says first; its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """End the process with one line, and no traceback, where a person can act on what failed."""
    try:
        yield
    except (UserError, LeaseLost) as failure:
        advice = "; rerun to adopt its result" if isinstance(failure, LeaseLost) else ""
        sys.stderr.write(f"tokenmill: {failure}{advice}\n")
        sys.exit(exit_code(failure))
