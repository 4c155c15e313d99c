"""The command line. Commands import what they need: `tokenmill --help` takes a tenth of a second."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tokenmill.errors import EXIT_BAD_INPUT, told_in_one_line

_UsageError: Any = typer.BadParameter.__base__
"""Of the errors on a command line typer exports only this leaf."""

app = typer.Typer(
    name="tokenmill",
    help="From a raw document to a served token: the whole life of a large language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Preset = Annotated[str, typer.Option("--preset", "-p", help="pico, nano, internlm2-1.8b, internlm2-7b, internlm2-20b")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="change one option of the preset")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]
StoreUri = Annotated[
    str | None,
    typer.Option("--store", envvar="TOKENMILL_STORE", help="file:///folder or s3://bucket/prefix [.tokenmill/store]"),
]


Team = Annotated[
    str | None,
    typer.Option("--team", envvar="TOKENMILL_TEAM", help="whose: of experiments, registered models, the store here"),
]


def use_team(name: str | None) -> None:
    """Settle the team for this process and its children."""
    from tokenmill.tracking.run import TEAM, team

    os.environ[TEAM] = name or ""
    team()


def default_store() -> str:
    """A folder below this one; a team's own."""
    return f"file://{Path.cwd() / '.tokenmill' / os.environ.get('TOKENMILL_TEAM', '') / 'store'}"


def use_store(uri: str | None) -> str:
    """Settle the store for this process and its children."""
    os.environ["TOKENMILL_STORE"] = uri or default_store()
    return os.environ["TOKENMILL_STORE"]


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2; everything else keeps its traceback."""
    from tokenmill.cli import (  # noqa: F401 - registers the commands
        annotating,
        curating,
        deploying,
        evaluating,
        inspecting,
        modeling,
        planning,
        promoting,
        ranking,
        releasing,
        running,
        serving,
        tokenizing,
    )

    with told_in_one_line():
        try:
            sys.exit(app(prog_name="tokenmill", standalone_mode=False))
        except _UsageError as wrong:
            if said := wrong.format_message():  # empty where help was shown instead
                command = wrong.ctx.command_path if wrong.ctx else "tokenmill"
                sys.stderr.write(f"tokenmill: {' '.join(said.split()).rstrip('.')}; see `{command} --help`\n")
            sys.exit(EXIT_BAD_INPUT)
