"""steps.lock: a forgotten version number is caught, a changed comment costs nothing.

For every step the lock holds its version and a hash of what its result may depend on: the code that its module imports,
and what that imports in turn (docstrings and comments left out), the data files beside it, its config's defaults, and the
versions of the libraries it names. Nobody declares what a step uses, so nobody can forget to. A contract test fails when a
hash moved under an unchanged version, unless someone said explicitly that the behaviour is the same.
"""

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import yaml

import tokenmill
from tokenmill.config import StepConfig
from tokenmill.manifest import canonical, sha256
from tokenmill.steps.registry import Definition, load_phase

PHASES = ("curation", "pretraining", "enhancement", "sft", "rlhf", "evaluation", "deployment")
PLUMBING = frozenset(
    f"tokenmill.{room}"
    for room in ("config", "errors", "launch", "logs", "progress", "report", "steps", "store", "telemetry", "tracking")
)
"""Rooms that carry a step's work and decide nothing in it; a change there moves no step."""
ALWAYS = ("tokenmill.records",)
"""What the plumbing itself uses to read and write every step's records."""
WORKER = "tokenmill.training.worker"
"""What a training step's launcher starts; no module imports it."""
DATA = frozenset({".yaml", ".txt", ".jinja"})

Lock = dict[str, dict[str, Any]]


def current() -> Lock:
    """The lock as the code stands."""
    return {d.name: {"version": d.version, "hash": step_hash(d)} for phase in PHASES for d in load_phase(phase)}


def step_hash(definition: Definition) -> str:
    """A hash of everything a step's result may depend on."""
    started = (WORKER,) if definition.nature == "training" else ()
    code = behaviour((definition.function.__module__, *ALWAYS, *started), tuple(map(Path, tokenmill.__path__)))
    libraries = {name: installed(name).partition("+")[0] for name in definition.libraries}
    defaults = [config().model_dump(mode="json", exclude={"execution"}) for config in _configs(definition)]
    return sha256(canonical([code, libraries, *defaults]))[:16]


def _configs(definition: Definition) -> Iterator[type[StepConfig]]:
    yield from definition.stages.values() or (definition.config,)


def refresh(lock: Lock, same_behaviour: list[str]) -> tuple[Lock, list[str]]:
    """The new lock, and one line for every step that moved without a new version or a word about it."""
    fresh, problems = current(), []
    for name, entry in fresh.items():
        known = lock.get(name)
        if not known or known["hash"] == entry["hash"]:
            continue
        if entry["version"] == known["version"] and name not in same_behaviour and "all" not in same_behaviour:
            problems.append(
                f"{name} moved but is still version {entry['version']}: raise the version, or say "
                f"`tokenmill lock --same-behaviour {name}`"
            )
    return fresh, problems


def read_lock(path: Path) -> Lock:
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def write_lock(path: Path, lock: Lock) -> None:
    head = "# Written by `tokenmill lock`: what each step's result may depend on. See docs/concepts/steps.md.\n"
    path.write_text(head + yaml.safe_dump(lock, sort_keys=True))


def behaviour(modules: Sequence[str], roots: tuple[Path, ...]) -> dict[str, str]:
    """Name → hash of the modules, of all that they import from `roots` but plumbing, and of the data files beside these."""
    found: dict[str, str] = {}
    ahead = list(modules)
    while ahead:
        name = ahead.pop()
        path = _module_file(name, roots)
        if path is None or name in found or ".".join(name.split(".")[:2]) in PLUMBING:
            continue
        found[name], imports = _read(path)
        if path.parent not in roots:
            found |= _data(path.parent)
        for module, member in imports:
            inner = f"{module}.{member}"
            ahead.append(inner if _module_file(inner, roots) else module)
    return found


def _module_file(name: str, roots: tuple[Path, ...]) -> Path | None:
    """Where a module of ours lies; looked up without importing it, which would import torch."""
    stem = name.partition(".")[2].replace(".", "/")
    candidates = (root / tail for root in roots for tail in (f"{stem}.py", f"{stem}/__init__.py"))
    return next((path for path in candidates if name.startswith("tokenmill.") and path.is_file()), None)


@cache
def _read(path: Path) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A module's hash without comments and docstrings; and what it imports, wherever in it, as (module, member)."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return sha256(ast.dump(tree).encode()), tuple(_imports(tree))


def _imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((one.name, "") for one in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from ((child.module, one.name) for one in child.names)
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from _imports(child)


@cache
def _data(package: Path) -> dict[str, str]:
    """Name → hash of the data files below a package's folder."""
    files = (path for path in sorted(package.rglob("*")) if path.suffix in DATA and path.name != "metadata.yaml")
    return {f"{package.name}/{path.relative_to(package).as_posix()}": sha256(path.read_bytes()) for path in files}
