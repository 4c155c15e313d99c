"""Python's imports between the files of one repository.

`from package import name` means, at its finest, the submodule of that name, or the file that the package's `__init__`
takes the name from. Every file is read once, however many others import from it.
"""

import posixpath
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

Import = tuple[str, str]
"""(module, names as they are listed); no names for `import module`. Most are repeated, and parsed but once: see `names`."""

# in brackets up to the one that closes, which none in a comment does; never taken back, or unclosed ones cost a square
_LISTED = r"\([^()#]*+(?:#[^\n]*+\n[^()#]*+)*+\)|[^\n#;]+"
_STATEMENT = re.compile(rf"[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]+({_LISTED})|import[ \t]+([^\n#;]+))")
_COMMENT = re.compile(r"#[^\n]*")


class PythonImports:
    """What each file of `{path: text}` imports; stubs (`.pyi`) import, and are imported by nobody."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files
        self._modules = module_names(files)
        self._own: dict[str, str] = {}
        for name, path in self._modules.items():
            self._own.setdefault(path, name)
        self._parsed: dict[str, list[Import]] = {}
        self._targets: dict[Import, tuple[str, ...]] = {}
        self._taken: dict[str, dict[str, tuple[str, str]]] = {}

    def __call__(self, path: str, text: str) -> set[str]:
        found: set[str] = set()
        for statement in self._imports(path):
            targets = self._targets.get(statement)
            if targets is None:
                base, listed = statement
                # import a.b: the module, or the package it is in
                each = [self._defining(base, name) for name, _ in names(listed)] or [self._nearest(base)]
                targets = self._targets[statement] = tuple(each)
            found.update(targets)
        return found

    def _imports(self, path: str) -> list[Import]:
        """A file's imports, relative ones made absolute."""
        if path not in self._parsed:
            own = self._own.get(path) or dotted(path)
            is_package = posixpath.basename(path).startswith("__init__.py")
            package = own if is_package else own.rpartition(".")[0]
            self._parsed[path] = [
                (absolute(base, package) if base[0] == "." else base, listed)
                for base, listed in statements(self._files[path])
            ]
        return self._parsed[path]

    def _nearest(self, module: str) -> str:
        """The file of a module, or of the nearest package above it; empty if there is none here."""
        while module and module not in self._modules:
            module = module.rpartition(".")[0]
        return self._modules.get(module, "")

    def _defining(self, base: str, name: str) -> str:
        """The file that `from base import name` is about: through as many `__init__` as pass the name on."""
        seen: set[str] = set()
        package = ""  # the last file on the way, which stands for what it takes from outside the repository
        while (submodule := f"{base}.{name}" if base else name) not in self._modules:
            path = self._modules.get(base, "")
            if not path.endswith("__init__.py") or base in seen:
                return path or package or self._nearest(base)
            source = self._taken_by(base, path).get(name)
            if source is None:
                return path
            seen.add(base)
            package = path
            base, name = source
        return self._modules[submodule]

    def _taken_by(self, base: str, path: str) -> dict[str, tuple[str, str]]:
        """Name → (module, name there) of what a package takes from elsewhere; the first statement counts."""
        if base not in self._taken:
            taken: dict[str, tuple[str, str]] = {}
            for module, listed in self._imports(path):
                if module != base:
                    for name, here in names(listed):
                        taken.setdefault(here, (module, name))
            self._taken[base] = taken
        return self._taken[base]


def module_names(files: Iterable[str]) -> dict[str, str]:
    """Dotted name → file. A module's name starts below the nearest folder that is not a package."""
    known = files if isinstance(files, Mapping) else set(files)
    packages: dict[str, tuple[str, ...]] = {}

    def package(folder: str) -> tuple[str, ...]:
        if folder not in packages:
            above, name = posixpath.split(folder)
            packages[folder] = (*package(above), name) if folder and f"{folder}/__init__.py" in known else ()
        return packages[folder]

    modules: dict[str, str] = {}
    for path in sorted(p for p in known if p.endswith(".py")):
        folder, name = posixpath.split(path)
        parts = package(folder) if name == "__init__.py" else (*package(folder), name.removesuffix(".py"))
        if parts:
            modules.setdefault(".".join(parts), path)
        modules.setdefault(dotted(path), path)
    return modules


def dotted(path: str) -> str:
    """The name of a module as seen from the repository's root."""
    return path.rpartition(".py")[0].removesuffix("/__init__").replace("/", ".")


def statements(text: str) -> list[Import]:
    """The import statements of a file in order, as they are written.

    Looks for the word `import` and reads the line around it: ten times the speed of a regular expression that tries
    every line.
    """
    found: list[Import] = []
    end = at = 0
    while (at := text.find("import", at)) >= 0:
        start = text.rfind("\n", 0, at) + 1
        if start < end or not (match := _STATEMENT.match(text, start)):
            at += 6
            continue
        at = end = match.end()
        base, listed, plain = match.groups()
        if plain:
            found += [(module, "") for module, _ in names(plain)]
        else:
            found.append((base, listed))
    return found


@lru_cache(maxsize=1 << 14)
def names(listed: str) -> tuple[tuple[str, str], ...]:
    """`a, b as c` → ((a, a), (b, c)): a name where it comes from, and here."""
    if "#" in listed:
        listed = _COMMENT.sub("", listed)
    found = [name for raw in listed.strip("() \t\n\\").split(",") if (name := raw.strip())]
    if " as " not in listed:
        return tuple(zip(found, found, strict=True))
    pairs = (name.partition(" as ") for name in found)
    return tuple((original.strip(), here.strip() or original) for original, _, here in pairs)


@lru_cache(maxsize=1 << 14)
def absolute(base: str, package: str) -> str:
    """`..b` in the package p.q → p.b."""
    if not base.startswith("."):
        return base
    inner = base.lstrip(".")
    stem = package.split(".") if package else []
    level = len(base) - len(inner)
    return ".".join([*stem[: len(stem) - level + 1], *([inner] if inner else [])])
