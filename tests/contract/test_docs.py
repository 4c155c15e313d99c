"""Every `tokenmill …` in README and docs is a command: it is read as the program reads it, and what it names is there."""

import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

import tokenmill.cli
from tokenmill.cli.main import app
from tokenmill.cli.running import checked, references
from tokenmill.config import parse_assignments
from tokenmill.errors import UserError
from tokenmill.pipelines.package import NAMES, build
from tokenmill.steps import find

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*/**/README.md"))]
FENCED = re.compile(r"^ *```(?:console|bash|sh)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
ANY_FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
SPOKEN_OF = re.compile(r"`(?:\$ )?tokenmill ([^`]+)`")
FILL_IN = "FILL_IN"
NO_FAULT = ("MissingParameter", "NoArgsIsHelpError")  # of a command that is only spoken of
ENDS = {"|", "||", "&&", "&", ";", ">", ">>", "<", "2>", ")"}


class Said(NamedTuple):
    where: str
    words: tuple[str, ...]
    whole: bool
    """Whether it could be run as it stands; what is only spoken of may lack arguments."""


def said_on(page: Path) -> Iterator[Said]:
    text, name = page.read_text(), page.relative_to(ROOT).as_posix()
    for fence in FENCED.finditer(text):
        lines = iter(fence[1].splitlines())
        for line in lines:
            before, here, rest = line.partition("tokenmill ")
            if not here or not re.fullmatch(r"\s*(\$ )?(\w+=\S+ )*(\.venv/bin/)?", before):
                continue
            while (words := split(rest)) is None:
                rest = rest.removesuffix("\\") + " " + next(lines)
            whole = "…" not in words
            yield Said(f"{name}: tokenmill {' '.join(words)}", words, whole)
    for spoken in SPOKEN_OF.finditer(ANY_FENCE.sub("", text)):
        if words := split(spoken[1]):
            yield Said(f"{name}: tokenmill {' '.join(words)}", words, False)


def split(line: str) -> tuple[str, ...] | None:
    """The words of a command, `<a thing to fill in>` being one; None if it goes on in the next line."""
    if line.rstrip().endswith("\\"):
        return None
    try:
        words = shlex.split(re.sub(r"<[^<>]*>", FILL_IN, line), comments=True)
    except ValueError:
        return None
    ends = [number for number, word in enumerate(words) if word in ENDS]
    return tuple(words[: ends[0]] if ends else words)


@pytest.fixture(scope="module")
def program() -> Any:
    for module in Path(tokenmill.cli.__file__).parent.glob("[a-z]*.py"):
        importlib.import_module(f"tokenmill.cli.{module.stem}")
    return typer.main.get_command(app)


def parsed(program: Any, said: Said) -> tuple[str, dict[str, Any]]:
    """The command's name and its parameters' values, as the program takes them."""
    left_out = {n for n, word in enumerate(said.words) if word == "…"}
    left_out |= {n - 1 for n in left_out if said.words[n - 1].startswith("-")}
    words, path = [word for n, word in enumerate(said.words) if n not in left_out], []
    command, context = program, None
    while True:
        try:
            context = command.make_context(command.name or "tokenmill", words, parent=context)
        except typer.BadParameter.__base__ as wrong:
            if said.whole or type(wrong).__name__ not in NO_FAULT:
                raise AssertionError(f"{said.where}\n{wrong.format_message()}") from None
            return " ".join(path), {}
        words = [*getattr(context, "_protected_args", ()), *context.args]
        if not hasattr(command, "commands") or not words:
            return " ".join(path), context.params
        path.append(words[0])
        _, command, words = command.resolve_command(context, words)


@cache
def parameters(pipeline: str) -> set[str]:
    return set(build(pipeline, "pico").component_spec.inputs or {})


SAID = list(dict.fromkeys(said for page in PAGES for said in said_on(page)))


def test_there_are_commands_to_look_at() -> None:
    assert sum(said.whole for said in SAID) > 100


@pytest.mark.parametrize("said", SAID, ids=lambda said: said.where[:120])
def test_a_command_that_is_shown_is_one(program: Any, said: Said) -> None:
    command, given = parsed(program, said)
    settings = [one for one in given.get("assignments") or () if "…" not in one and FILL_IN not in one]
    names = {name for name, _ in references(given.get("inputs"))}
    names |= set(parse_assignments(given["arguments"], "--arg")) if given.get("arguments") else set()
    try:
        if settings:
            checked(given["preset"], settings)
        if command == "step" and given and given["name"] != FILL_IN:
            assert names <= {role.name for role in find(given["name"]).roles}
    except UserError as wrong:
        raise AssertionError(f"{said.where}\n{wrong}") from None
    if command in ("run", "submit", "compile") and given:
        assert given["pipeline"] in NAMES
        assert names <= parameters(given["pipeline"])
