"""steps.lock: a forgotten version number is caught, a changed comment costs nothing.

For every step the lock holds its version and a hash of what its result may depend on: the code of its phase and of the
behavioural rooms of the platform (docstrings and comments left out), its config's defaults, and the versions of the
libraries it names. A contract test fails when a hash moved under an unchanged version, unless someone said explicitly that
the behaviour is the same.
"""

import ast
import importlib
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import yaml

from tokenmill.manifest import canonical, sha256
from tokenmill.steps.registry import Definition, load_phase

PHASES = ("curation", "pretraining", "enhancement", "sft", "rlhf", "evaluation", "deployment")
BEHAVIOUR = ("tokenmill.records",)
TRAINING_BEHAVIOUR = ("tokenmill.records", "tokenmill.model", "tokenmill.training")

Lock = dict[str, dict[str, Any]]


def current() -> Lock:
    """The lock as the code stands."""
    return {d.name: {"version": d.version, "hash": step_hash(d)} for phase in PHASES for d in load_phase(phase)}


def step_hash(definition: Definition) -> str:
    """A hash of everything a step's result may depend on."""
    rooms = TRAINING_BEHAVIOUR if definition.nature == "training" else BEHAVIOUR
    package = definition.function.__module__.rpartition(".")[0]
    code = {name: _code(name) for name in (package, *rooms)}
    libraries = {name: installed(name).partition("+")[0] for name in definition.libraries}
    defaults = definition.config().model_dump(mode="json", exclude={"execution"})
    return sha256(canonical([code, libraries, defaults]))[:16]


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


def _code(name: str) -> dict[str, str]:
    """Module name → hash of its code, for a package's own modules (KFP components and docs excluded)."""
    module = importlib.import_module(name)
    if not hasattr(module, "__path__"):
        return {name: _normalised(Path(str(module.__file__)))}
    return {
        f"{name}.{path.relative_to(folder).as_posix()}": _normalised(path)
        for folder in map(Path, module.__path__)
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".py", ".yaml", ".txt", ".jinja"} and path.name not in {"component.py", "metadata.yaml"}
    }


def _normalised(path: Path) -> str:
    """Code without comments and docstrings; other files as they are."""
    if path.suffix != ".py":
        return sha256(path.read_bytes())
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return sha256(ast.dump(tree).encode())
