"""Import edges between the files of one repository, by regular expression (report §3.1.2).

A batch import (`from package import name`) is resolved to the finest file that it means: the submodule of that name,
or the one that the package's `__init__` takes the name from. What resolves to no file of the repository is no edge.
"""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

Edges = dict[str, set[str]]
"""File → the files that it imports."""


def import_edges(files: Mapping[str, str]) -> Edges:
    """The import graph of `{path: text}`; every file is a key."""
    resolvers = {suffixes: make(files) for suffixes, make in _LANGUAGES.items()}
    edges: Edges = {path: set() for path in files}
    for path, text in files.items():
        for suffixes, imported in resolvers.items():
            if path.endswith(suffixes):
                edges[path] = {target for target in imported(path, text) if target in files and target != path}
    return edges


Resolver = Callable[[str, str], Iterable[str]]

# --- Python ----------------------------------------------------------------------------------------------------------

_PYTHON = re.compile(
    r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#;]+)|import[ \t]+([^\n#;]+))", re.MULTILINE
)


def _python(files: Mapping[str, str]) -> Resolver:
    modules = _python_modules(files)

    def imported(path: str, text: str) -> Iterator[str]:
        for base, names in _python_imports(path, text, modules):
            if not names:  # import a.b: the module, or the package it is in
                yield from _first(modules, base)
            for name in names:
                yield from _defining(modules, files, base, name)

    return imported


def _python_modules(files: Mapping[str, str]) -> dict[str, str]:
    """Dotted name → file. A module's name starts below the nearest folder that is not a package."""
    modules: dict[str, str] = {}
    for path in sorted(p for p in files if p.endswith(".py")):
        folder, name = posixpath.split(path)
        parts = [] if name == "__init__.py" else [name.removesuffix(".py")]
        while folder and f"{folder}/__init__.py" in files:
            folder, package = posixpath.split(folder)
            parts.insert(0, package)
        if parts:
            modules.setdefault(".".join(parts), path)
        modules.setdefault(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."), path)
    return modules


def _python_imports(path: str, text: str, modules: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """(module, names imported from it; none for `import module`), relative ones made absolute."""
    own = next((name for name, file in modules.items() if file == path), "")
    package = own if path.endswith("__init__.py") else own.rpartition(".")[0]
    for match in _PYTHON.finditer(text):
        base, names, plain = match.groups()
        if plain:
            for name in plain.split(","):
                yield (name.split(" as ")[0].strip(), [])
            continue
        if base.startswith("."):
            level = len(base) - len(base.lstrip("."))
            stem = package.split(".") if package else []
            base = ".".join([*stem[: len(stem) - level + 1], *filter(None, [base.lstrip(".")])])
        cleaned = re.sub(r"#[^\n]*", "", names).strip("() \t\n\\")
        yield base, [n.split(" as ")[0].strip() for n in re.split(r",", cleaned) if n.strip()]


def _first(modules: Mapping[str, str], dotted: str) -> Iterator[str]:
    while dotted:
        if dotted in modules:
            yield modules[dotted]
            return
        dotted = dotted.rpartition(".")[0]


def _defining(
    modules: Mapping[str, str], files: Mapping[str, str], base: str, name: str, seen: frozenset[str] = frozenset()
) -> Iterator[str]:
    """The file that `from base import name` is about."""
    submodule = f"{base}.{name}" if base else name
    package = modules.get(base, "")
    if submodule in modules:
        yield modules[submodule]
    elif package.endswith("__init__.py") and base not in seen:
        for inner, names in _python_imports(package, files[package], modules):
            if name in names and inner != base:
                yield from _defining(modules, files, inner, name, seen | {base})
                return
        yield package
    else:
        yield from _first(modules, base)


# --- languages whose imports name files ------------------------------------------------------------------------------

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)
_JAVASCRIPT = re.compile(r"""(?:\bfrom\s*|\bimport\s*\(?\s*|\brequire\s*\(\s*)['"](\.[^'"]*)['"]""")
_JAVA = re.compile(r"^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]+?)(\.\*)?[ \t]*;", re.MULTILINE)
_RUST = re.compile(r"^[ \t]*(?:pub(?:\([^)]*\))?\s+)?(?:mod[ \t]+(\w+)[ \t]*;|use[ \t]+crate::([\w:]+))", re.MULTILINE)
_GO_BLOCK = re.compile(r'^import[ \t]+(?:\(([^)]*)\)|(?:\w+[ \t]+)?("[^"\n]+"))', re.MULTILINE)


def _c(files: Mapping[str, str]) -> Resolver:
    def imported(path: str, text: str) -> Iterator[str]:
        for name in _INCLUDE.findall(text):
            beside = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
            yield beside if beside in files else _ending(files, name)

    return imported


def _javascript(files: Mapping[str, str]) -> Resolver:
    endings = ("", ".js", ".ts", ".jsx", ".tsx", ".mjs", "/index.js", "/index.ts")

    def imported(path: str, text: str) -> Iterator[str]:
        for name in _JAVASCRIPT.findall(text):
            stem = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
            yield next((stem + ending for ending in endings if stem + ending in files), "")

    return imported


def _java(files: Mapping[str, str]) -> Resolver:
    def imported(path: str, text: str) -> Iterator[str]:
        for name, star in _JAVA.findall(text):
            place = name.replace(".", "/")
            if star:
                inside = re.compile(rf"(?:^|/){re.escape(place)}/[^/]+\.java$")
                yield from (p for p in files if inside.search(p))
            else:  # a static import names a member: its class is one up
                yield _ending(files, f"{place}.java") or _ending(files, f"{posixpath.dirname(place)}.java")

    return imported


def _go(files: Mapping[str, str]) -> Resolver:
    def imported(path: str, text: str) -> Iterator[str]:
        for block, single in _GO_BLOCK.findall(text):
            for name in re.findall(r'"([^"]+)"', block or single):
                folders = [posixpath.dirname(p) for p in files if p.endswith(".go")]
                inside = {d for d in folders if d and (name == d or name.endswith(f"/{d}"))}
                yield from (p for p in files if p.endswith(".go") and posixpath.dirname(p) in inside)

    return imported


def _rust(files: Mapping[str, str]) -> Resolver:
    def imported(path: str, text: str) -> Iterator[str]:
        folder, name = posixpath.split(path)
        inner = folder if name in ("mod.rs", "lib.rs", "main.rs") else f"{folder}/{name.removesuffix('.rs')}"
        root = next((f"{path[: m.end()]}" for m in [re.match(r"(?:.*/)?src(?=/)", path)] if m), "")
        for module, used in _RUST.findall(text):
            parts = [module] if module else used.strip(":").split("::")
            base = inner if module else root
            for depth in range(len(parts), 0, -1):  # use crate::a::b::Name: the file may be a/b.rs, a/b/mod.rs or a.rs
                stem = posixpath.join(base, *parts[:depth])
                found = next((f for f in (f"{stem}.rs", f"{stem}/mod.rs") if f in files), None)
                if found:
                    yield found
                    break

    return imported


def _ending(files: Mapping[str, str], name: str) -> str:
    """The first file, alphabetically, whose path ends with `name`; empty if none does."""
    return min((p for p in files if p == name or p.endswith(f"/{name}")), default="")


_LANGUAGES: dict[tuple[str, ...], Callable[[Mapping[str, str]], Resolver]] = {
    (".py", ".pyi"): _python,
    (".c", ".h", ".cc", ".cpp", ".cxx", ".hpp"): _c,
    (".js", ".jsx", ".mjs", ".ts", ".tsx"): _javascript,
    (".java",): _java,
    (".go",): _go,
    (".rs",): _rust,
}
