"""Dependency order of code: files a second, and how the cost grows.

    python benchmarks/curation_code.py [--package sqlalchemy --package sympy …] [--repeats 5]

Real trees are installed packages, read as text (nothing is imported); synthetic ones have files of about 3 kB with five
imports each, a sixth of the files in each language. Times are of the processor, for `order_repository`.
"""

import argparse
import random
import statistics
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from rows import machine

from tokenmill.curation.order_code import order_repository

SUFFIXES = (".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".js", ".ts", ".java", ".go", ".rs", ".md", ".rst")
PACKAGES = ("sqlalchemy", "sympy", "pandas", "torch")
SIZES = (600, 6_000, 60_000)
LANGUAGES = {
    "py": ("p/k{0}/m{1}.py", "from p.k{0}.m{1} import f{2}\n", "def f{0}(x):\n    return x * {0} + 1\n\n\n"),
    "c": ("c/k{0}/m{1}.c", '#include "k{0}/m{1}.c"\n', "int f{0}(int x) {{ return x * {0} + 1; }}\n\n"),
    "ts": ("t/k{0}/m{1}.ts", "import {{ f{2} }} from '../k{0}/m{1}';\n", "export const f{0} = (x) => x * {0} + 1;\n\n"),
    "java": ("j/k{0}/M{1}.java", "import k{0}.M{1};\n", "class F{0} {{ int f(int x) {{ return x * {0} + 1; }} }}\n\n"),
    "go": ("g/k{0}/m{1}.go", 'import "ex.org/g/k{0}"\n', "func F{0}(x int) int {{ return x * {0} + 1 }}\n\n"),
    "rs": ("r/src/k{0}/m{1}.rs", "use crate::k{0}::m{1}::f{2};\n", "pub fn f{0}(x: i64) -> i64 {{ x * {0} + 1 }}\n\n"),
}


def synthetic(n_files: int) -> dict[str, str]:
    """A repository in six languages: folders of ten files, each file importing five earlier ones."""
    draw, files = random.Random(n_files), dict[str, str]()
    for path, statement, body in LANGUAGES.values():
        for number in range(n_files // len(LANGUAGES)):
            targets = [draw.randrange(number) for _ in range(5)] if number else []
            imports = "".join(statement.format(t // 10, t, draw.randrange(60)) for t in targets)
            files[path.format(number // 10, number)] = imports + "\n" + "".join(body.format(i) for i in range(60))
    return files


def tree(package: str) -> dict[str, str]:
    """The text files of an installed package, by path."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"no package {package} is installed")
    root = Path(next(iter(spec.submodule_search_locations)))
    files: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix in SUFFIXES and path.is_file():
            files[path.relative_to(root.parent).as_posix()] = path.read_bytes().decode("utf-8", "replace")
    return files


def row(name: str, files: Mapping[str, str], repeats: int) -> str:
    """One line of the table."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        ordered = order_repository(files)
        seconds.append(time.process_time() - start)
        if sorted(ordered) != sorted(files):
            raise SystemExit(f"{name}: files are missing from the order")
    took, megabytes = statistics.median(seconds), sum(map(len, files.values())) / 1e6
    return f"| {name} | {len(files):,} | {megabytes:.1f} | {took:.3f} | {len(files) / took:,.0f} | {megabytes / took:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--package", action="append", help="an installed package; may be given again")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "curation-code.md")
    asked = parser.parse_args()
    rows = [row(f"synthetic, {n:,} files", synthetic(n), asked.repeats) for n in SIZES]
    rows += [row(name, tree(name), asked.repeats) for name in asked.package or PACKAGES]
    lines = [
        "# Dependency order of code",
        "",
        f"`python benchmarks/curation_code.py --repeats {asked.repeats}`: processor time, median, one process.",
        "",
        f"{machine()}.",
        "",
        "| repository | files | MB | seconds | files/s | MB/s |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
