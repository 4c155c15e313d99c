"""Import edges between the files of one repository, by regular expression (report §3.1.2).

A batch import (`from package import name`, `import package.*`) is resolved to the finest file that it means. What
resolves to no file of the repository is no edge. Every language looks names up in an index that is made once, so the
cost grows with the text and not with the square of the number of files.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from itertools import chain

from tokenmill.repositories.imports_python import PythonImports

Edges = dict[str, set[str]]
"""File → the files that it imports."""

Resolver = Callable[[str, str], Iterable[str]]
"""(path, text) → paths that it imports; what is no file of the repository is left out by the caller."""


def import_edges(files: Mapping[str, str]) -> Edges:
    """The import graph of `{path: text}`; every file is a key. Python, C/C++, JavaScript/TypeScript, Java, Go, Rust."""
    resolvers: dict[Callable[..., Resolver], Resolver] = {}
    edges: Edges = {}
    for path, text in files.items():
        language = _LANGUAGES.get(posixpath.splitext(path)[1])
        if language is None:
            edges[path] = set()
            continue
        if language not in resolvers:
            resolvers[language] = language(files)
        targets = set(resolvers[language](path, text))
        targets.discard(path)
        edges[path] = targets & files.keys()
    return edges


class Endings:
    """Paths by how they end, a whole number of folders deep. `a/b.h` ends in `b.h` and not in `.h`."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._by_tail: defaultdict[str, list[str]] = defaultdict(list)
        for path in sorted(paths):
            folder, inside, name = path.rpartition("/")
            self._by_tail[name].append(path)
            if inside:
                self._by_tail[f"{folder[folder.rfind('/') + 1 :]}/{name}"].append(path)

    def all(self, name: str) -> list[str]:
        """Every path that is `name` or ends in it, by alphabet."""
        found = self._by_tail.get("/".join(name.rsplit("/", 2)[-2:]), [])
        return [p for p in found if p == name or p.endswith(f"/{name}")] if name.count("/") > 1 else found

    def first(self, name: str) -> str:
        """The first of them, or empty."""
        return next(iter(self.all(name)), "")


# --- C and C++ -------------------------------------------------------------------------------------------------------

_INCLUDE = re.compile(r'include[ \t]*"([^"\n]+)"')


def _c(files: Mapping[str, str]) -> Resolver:
    first = cache(Endings(files).first)

    def imported(path: str, text: str) -> Iterator[str]:
        for match in _INCLUDE.finditer(text):
            if _before(match, text).strip(" \t") == "#":
                beside = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
                yield beside if beside in files else first(match[1])

    return imported


# --- JavaScript and TypeScript ---------------------------------------------------------------------------------------

_RELATIVE = (re.compile(r"'\."), re.compile(r'"\.'))
_QUOTED = re.compile(r"""['"](\.[^'"]*)['"]""")
_IMPORTING = re.compile(r"(?:\bfrom\s*|\bimport\s*\(?\s*|\brequire\s*\(\s*)$")
_ENDINGS = ("", ".js", ".ts", ".jsx", ".tsx", ".mjs", ".cjs", ".mts", ".cts", ".d.ts")
_INDEXES = ("/index.js", "/index.ts", "/index.jsx", "/index.tsx", "/index.mjs")


def _javascript(files: Mapping[str, str]) -> Resolver:
    script = cache(partial(_script, files))

    def imported(path: str, text: str) -> Iterator[str]:
        folder = posixpath.dirname(path)
        for quote in chain.from_iterable(opening.finditer(text) for opening in _RELATIVE):
            at = quote.start()
            before = text[at - 1 : at]  # of from, import or require(, the last character
            if not (before in "mt(" or before.isspace()) or not _IMPORTING.search(text, max(0, at - 40), at):
                continue
            if match := _QUOTED.match(text, at):
                yield script(posixpath.normpath(posixpath.join(folder, match[1])))

    return imported


def _script(files: Mapping[str, str], stem: str) -> str:
    """The file that `./stem` means; TypeScript writes the name that the compiler will give it: `./a.js` for a.ts."""
    for ending in (*_ENDINGS, *_INDEXES):
        if stem + ending in files:
            return stem + ending
    base, suffix = posixpath.splitext(stem)
    sources = {".js": (".ts", ".tsx"), ".jsx": (".tsx",), ".mjs": (".mts",), ".cjs": (".cts",)}.get(suffix, ())
    return next((base + source for source in sources if base + source in files), "")


# --- Java ------------------------------------------------------------------------------------------------------------

_JAVA = re.compile(r"import[ \t]+(?:static[ \t]+)?([\w.]+?)(\.\*)?[ \t]*;")


def _java(files: Mapping[str, str]) -> Resolver:
    packages: defaultdict[str, list[str]] = defaultdict(list)
    for path in files:
        if path.endswith(".java"):
            packages[posixpath.dirname(path)].append(path)
    folders, first = Endings(packages), cache(Endings(files).first)

    def imported(path: str, text: str) -> Iterator[str]:
        for match in _JAVA.finditer(text):
            if _before(match, text).strip(" \t"):
                continue
            place = match[1].replace(".", "/")
            if match[2]:
                yield from (path for folder in folders.all(place) for path in packages[folder])
                yield first(f"{place}.java")  # import static a.Class.*
            else:  # a static import names a member: its class is one up
                yield first(f"{place}.java") or first(f"{posixpath.dirname(place)}.java")

    return imported


# --- Go --------------------------------------------------------------------------------------------------------------

_GO = re.compile(r'\nimport[ \t]+(?:\(([^)]*)\)|(?:[\w.]+[ \t]+)?("[^"\n]+"))')
_STRING = re.compile(r'"([^"]+)"')


def _go(files: Mapping[str, str]) -> Resolver:
    packages: defaultdict[str, list[str]] = defaultdict(list)
    for path in files:
        if path.endswith(".go") and not path.endswith("_test.go"):  # no package sees another's tests
            packages[posixpath.dirname(path)].append(path)

    def imported(path: str, text: str) -> Iterator[str]:
        for block, single in _GO.findall("\n" + text):
            for name in _STRING.findall(block or single):
                while name and name not in packages:  # the deepest folder: m.org/net/http is net/http and not http
                    name = name.partition("/")[2]
                yield from packages[name] if name else ()

    return imported


# --- Rust ------------------------------------------------------------------------------------------------------------

_MOD = re.compile(r"mod[ \t]+(\w+)[ \t]*;")
_USE = re.compile(r"use[ \t]+(?=(?:crate|self|super)::)")
_VISIBLE = re.compile(r"[ \t]*(?:pub(?:\([^)\n]*\))?[ \t]+)?")
_SOURCE_ROOT = re.compile(r"(?:.*/)?src(?=/)")
_USE_TOKEN = re.compile(r"\w+|[{},*]")
_NO_NAME = re.compile(r"//[^\n]*|\bas\s+\w+")


def _rust(files: Mapping[str, str]) -> Resolver:
    module = cache(partial(_module, files))

    def imported(path: str, text: str) -> Iterator[str]:
        folder, name = posixpath.split(path)
        inner = folder if name in ("mod.rs", "lib.rs", "main.rs") else posixpath.join(folder, name.removesuffix(".rs"))
        root = _SOURCE_ROOT.match(path)
        for match in _MOD.finditer(text):
            if _VISIBLE.fullmatch(_before(match, text)):
                yield module(inner, (match[1],))
        for match in _USE.finditer(text):
            if not _VISIBLE.fullmatch(_before(match, text)) or (end := text.find(";", match.end())) < 0:
                continue
            for used in use_paths(text[match.end() : end]):
                base = (root[0] if root else "") if used[:1] == ["crate"] else inner
                for _ in range(used.count("super")):
                    base = posixpath.dirname(base)
                yield module(base, tuple(part for part in used if part not in ("crate", "self", "super")))

    return imported


def _module(files: Mapping[str, str], base: str, parts: tuple[str, ...]) -> str:
    """For a::b::Name below `base` the first there is of a/b/Name.rs, a/b/Name/mod.rs, a/b.rs, …, a/mod.rs."""
    for depth in range(len(parts), 0, -1):
        stem = posixpath.join(base, *parts[:depth])
        for candidate in (f"{stem}.rs", f"{stem}/mod.rs"):
            if candidate in files:
                return candidate
    return ""


def use_paths(tree: str) -> Iterator[list[str]]:
    """`a::{b, c::{D as E, self}, f::*}` → [a, b], [a, c, D], [a, c, self], [a, f]."""
    outer: list[list[str]] = []
    path: list[str] = []
    named = False  # whether the path has a last part of its own, and is not what a brace left
    for part in _USE_TOKEN.findall(_NO_NAME.sub("", tree)):
        if part == "{":
            outer.append(path)
            path, named = path.copy(), False
        elif part in ",}":
            if named:
                yield path
            path, named = (outer.pop() if part == "}" and outer else list(outer[-1]) if outer else []), False
        else:
            path = path if part == "*" else [*path, part]
            named = True
    if named:
        yield path


# ---------------------------------------------------------------------------------------------------------------------


def _before(match: re.Match[str], text: str) -> str:
    """What stands before a match on its line.

    The patterns here begin with a word or a sign and leave this to be looked at afterwards: such a pattern passes over
    text at nearly memory's speed, and one that tries the start of every line is ten times slower.
    """
    start = match.start()
    return text[text.rfind("\n", 0, start) + 1 : start]


_LANGUAGES: dict[str, Callable[[Mapping[str, str]], Resolver]] = {
    **dict.fromkeys((".py", ".pyi"), PythonImports),
    **dict.fromkeys((".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".hh"), _c),
    **dict.fromkeys((".js", ".jsx", ".mjs", ".cjs", ".ts", ".tsx", ".mts", ".cts"), _javascript),
    ".java": _java,
    ".go": _go,
    ".rs": _rust,
}
