"""Commands about a corpus and the rules that made it: `tokenmill curation …`."""

import typer

from tokenmill.cli.main import app

curation_app = typer.Typer(help="Look into a corpus: its rules, its documents.", no_args_is_help=True)
app.add_typer(curation_app, name="curation")


@curation_app.callback()
def curation() -> None:
    """Look into a corpus: its rules, its documents."""
