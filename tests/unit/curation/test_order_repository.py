"""Whole repositories, from their text to their order. Oracles: the order's definition, and imports written by the test."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pico import Lab

from tokenmill.curation import order_code as module
from tokenmill.curation.config import OrderCodeConfig
from tokenmill.curation.order_code import import_cycles, order_repository, repository_documents
from tokenmill.records import JSONL, read_jsonl
from tokenmill.repositories.imports import Endings, import_edges, use_paths
from tokenmill.repositories.imports_python import module_names, names, statements

# how each language writes "file a imports file b", for files in one folder
WRITE = {
    "py": "import {}",
    "c": '#include "{}.c"',
    "ts": "import {{ x }} from './{}'",
    "java": "import pkg.{};",
}
PATH = {"py": "{}.py", "c": "{}.c", "ts": "{}.ts", "java": "pkg/{}.java"}


@st.composite
def graphs(draw, acyclic: bool) -> tuple[str, dict[str, set[str]]]:
    suffix = draw(st.sampled_from(sorted(WRITE)))
    names = [f"m{i}" for i in draw(st.permutations(range(draw(st.integers(1, 9)))))]
    edges: dict[str, set[str]] = {name: set() for name in names}
    for i, j in itertools.permutations(range(len(names)), 2):
        if (j < i or not acyclic) and draw(st.integers(0, 3)) == 0:
            edges[names[i]].add(names[j])
    return suffix, edges


def written(suffix: str, edges: dict[str, set[str]]) -> dict[str, str]:
    return {
        PATH[suffix].format(name): "\n".join(["// 1", *(WRITE[suffix].format(t) for t in sorted(targets))]) + "\n"
        for name, targets in edges.items()
    }


def paths(suffix: str, edges: dict[str, set[str]]) -> dict[str, set[str]]:
    return {PATH[suffix].format(n): {PATH[suffix].format(t) for t in targets} for n, targets in edges.items()}


@settings(max_examples=60)
@given(graphs(acyclic=True))
def test_without_cycles_every_file_stands_behind_all_that_it_imports(graph):
    suffix, edges = graph
    files, expected = written(suffix, edges), paths(suffix, edges)
    assert import_edges(files) == expected
    place = {path: i for i, path in enumerate(order_repository(files))}
    assert place.keys() == files.keys()
    assert all(place[target] < place[path] for path, targets in expected.items() for target in targets)
    assert import_cycles(expected) == []


@settings(max_examples=60)
@given(graphs(acyclic=False), st.randoms(use_true_random=False))
def test_any_graph_has_one_order_whatever_the_order_of_its_files(graph, rng):
    suffix, edges = graph
    files = written(suffix, edges)
    ordered = order_repository(files)
    assert sorted(ordered) == sorted(files)
    assert order_repository(dict(rng.sample(sorted(files.items()), len(files)))) == ordered


@settings(max_examples=60)
@given(graphs(acyclic=False))
def test_files_of_different_cycles_keep_to_the_order_of_imports(graph):
    """Of two files the imported one comes first, unless each reaches the other (brute force over all paths)."""
    suffix, edges = graph
    edges = paths(suffix, edges)
    reach = {n: set(targets) for n, targets in edges.items()}
    for _ in edges:
        reach = {n: r.union(*(reach[t] for t in r)) for n, r in reach.items()}
    place = {path: i for i, path in enumerate(order_repository(written(suffix, graph[1])))}
    for path, target in itertools.permutations(edges, 2):
        if target in reach[path] and path not in reach[target]:
            assert place[target] < place[path]
    cycles = {frozenset(t for t in reach[n] if n in reach[t]) for n in edges if n in reach[n]}
    assert {frozenset(cycle) for cycle in import_cycles(edges)} == cycles
    assert all(cycle[0] == min(cycle) for cycle in import_cycles(edges))


def test_order_repository_takes_prose_and_code():
    files = {
        "app.py": "from lib import b\n",
        "lib/__init__.py": "",
        "lib/b.py": "import lib.a\n",
        "lib/a.py": "import lib.b\n",
        "lib/README.md": "about lib",
        "README.rst": "about all",
    }
    # lib's files come first; its README before the first of them, the repository's before the first of its own folder
    assert order_repository(files) == [
        "lib/README.md", "lib/__init__.py", "lib/a.py", "lib/b.py", "README.rst", "app.py",
    ]  # fmt: skip
    assert order_repository({}) == []


# --- imports that need more than a name ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ("crate::net::Socket", ["crate/net/Socket"]),
        ("crate::{a, b::C}", ["crate/a", "crate/b/C"]),
        ("crate::a::{self, b as c, d::{E, F},}", ["crate/a/self", "crate/a/b", "crate/a/d/E", "crate/a/d/F"]),
        ("super::x::*", ["super/x"]),
        ("crate::{\n    a, // why, and how\n    b,\n}", ["crate/a", "crate/b"]),
    ],
)
def test_rust_use_trees(tree, expected):
    assert ["/".join(path) for path in use_paths(tree)] == expected


@pytest.mark.parametrize(
    ("files", "path", "targets"),
    [
        # TypeScript's ESM names the file that the compiler will write
        ({"a.ts": "import { x } from './b.js'", "b.ts": ""}, "a.ts", {"b.ts"}),
        ({"a.js": "x = 'a'.concat(require('./b'))", "b.js": ""}, "a.js", {"b.js"}),
        ({"a.js": "export * from './b'; const s = '../c'", "b.mjs": "", "c.js": ""}, "a.js", {"b.mjs"}),
        # the deepest folder, and no package's tests
        ({"m.go": 'import "ex.org/r/net/http"', "net/http/a.go": "", "net/http/a_test.go": "", "http/b.go": ""},
         "m.go", {"net/http/a.go"}),
        ({"m.go": 'import "fmt"', "n.go": ""}, "m.go", set()),
        ({"src/a/b.rs": "use super::c::D;\nuse crate::{e, f::G};", "src/a/c.rs": "", "src/e.rs": "", "src/f/mod.rs": ""},
         "src/a/b.rs", {"src/a/c.rs", "src/e.rs", "src/f/mod.rs"}),
        # an unclosed name ends with its line, and an empty block or a stray brace is no reason to stop
        ({"m.c": '#include "x\n\t# include\t"a.h"', "a.h": ""}, "m.c", {"a.h"}),
        ({"m.go": 'import ()\nimport x "r/p"', "p/a.go": ""}, "m.go", {"p/a.go"}),
        ({"src/a.rs": "use crate::b}, *;\npub(crate) use super::c::D;", "src/b.rs": "", "src/c.rs": ""},
         "src/a.rs", {"src/b.rs", "src/c.rs"}),
        # words of an import that are none
        ({"m.c": '// #include "a.h"\nx include "a.h"', "a.h": ""}, "m.c", set()),
        ({"a.js": "xfrom './b'; y = \"it's from\" + './b'; importx('./b')", "b.js": ""}, "a.js", set()),
        ({"A.java": "// import p.B;\nx import p.B;", "p/B.java": ""}, "A.java", set()),
        ({"src/a.rs": "// mod b;\n//! use crate::b;\nuse crate::c;", "src/b.rs": "", "src/c.rs": ""},
         "src/a.rs", {"src/c.rs"}),
        ({"a.py": ">>> import b\nunimportant = 1\n'import b'", "b.py": ""}, "a.py", set()),
        # one statement, three packages: what it says is the same, and what it means is not
        ({"p/a.py": "from .m import x", "q/a.py": "from .m import x", "a.py": "from m import x", "p/__init__.py": "",
          "q/__init__.py": "", "p/m.py": "", "q/m.py": "", "m.py": ""}, "q/a.py", {"q/m.py"}),
        # a statement of several lines, and what stands behind it on the last of them
        ({"a.py": "from p import (\n  # both (b) and (c)\n  b,\n  c as d,\n); import e\nimport f", "p/b.py": "", "p/c.py": "",
          "e.py": "", "f.py": ""}, "a.py", {"p/b.py", "p/c.py", "f.py"}),
        # a bracket that nothing closes ends with its line
        ({"a.py": "from p import (b\nfrom q import (c)", "p/b.py": "", "q/c.py": ""}, "a.py", {"p/b.py", "q/c.py"}),
        ({"a.py": "if x:\n\tfrom\tp import\tb; import c\n\timport c", "p/b.py": "", "c.py": ""},
         "a.py", {"p/b.py", "c.py"}),
        ({"A.java": "import static p.B.*;", "p/B.java": ""}, "A.java", {"p/B.java"}),
        ({"p/__init__.py": "from .b import f as g", "p/b.py": "", "a.py": "from p import g"}, "a.py", {"p/b.py"}),
        # what the package takes from outside stands for itself
        ({"p/__init__.py": "from numpy import f", "a.py": "from p import f"}, "a.py", {"p/__init__.py"}),
        ({"p/__init__.py": "", "p/b.py": "", "p/a.pyi": "from .b import x"}, "p/a.pyi", {"p/b.py"}),
    ],
)  # fmt: skip
def test_imports_that_need_more_than_a_name(files, path, targets):
    assert import_edges(files)[path] == targets


def test_python_statements_as_the_compiler_reads_them():
    """Oracle: Python's own parser."""
    import ast

    text = (
        "import os, a.b as c\nfrom . import (x,  # why (or not)\n  y as z)\n'''\nno import here\n'''\n"
        "def f():\n    from ..p.q import r; import s\nimportant = 1  # import t\nfrom m import *\n"
    )
    expected = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import) and node.names[0].name != "s":  # after a semicolon: not looked for
            expected += [(n.name, ()) for n in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            expected.append((base, tuple((n.name, n.asname or n.name) for n in node.names)))
    found = [(module, names(listed) if listed else ()) for module, listed in statements(text)]
    assert sorted(found) == sorted(expected)


def test_endings_against_a_search_through_all_paths():
    rng = random.Random(4)
    some = ["/".join(rng.choices("abc", k=rng.randint(1, 5))) + rng.choice((".h", "")) for _ in range(300)]
    endings = Endings(set(some))
    for name in [*some, *(path.partition("/")[2] or "x" for path in some), "/a", "c.h", "a//b"]:
        expected = sorted(p for p in set(some) if p == name or p.endswith(f"/{name}"))
        assert endings.all(name) == expected
        assert endings.first(name) == min(expected, default="")


def test_module_names_start_below_the_nearest_folder_that_is_no_package():
    files = dict.fromkeys(["src/p/__init__.py", "src/p/q/__init__.py", "src/p/q/m.py", "src/r/s.py"], "")
    names = module_names(files)
    assert names["p.q.m"] == names["src.p.q.m"] == "src/p/q/m.py"
    assert names["p.q"] == "src/p/q/__init__.py"
    assert names["src.r.s"] == names["s"] == "src/r/s.py"  # a script imports what lies beside it


def test_the_cost_of_a_repository_grows_with_its_files_and_not_with_their_square(monkeypatch):
    """Counted, not timed: how often the resolvers ask whether a path is there."""

    class Counting(dict):
        asked = 0

        def __contains__(self, key):
            Counting.asked += 1
            return super().__contains__(key)

        def __iter__(self):
            Counting.asked += len(self)
            return super().__iter__()

    def asked(n: int) -> int:
        Counting.asked = 0
        files = {f"p/m{i}.py": f"from p.m{i // 2} import x\n" for i in range(n)}
        files |= {f"j/C{i}.java": f"import j.C{i // 2};\nimport j.x.*;\n" for i in range(n)}
        files |= {f"g/q{i}/f.go": f'import "ex.org/g/q{i // 2}"\n' for i in range(n)}
        files |= {f"c/h{i}.h": f'#include "h{i // 2}.h"\n#include "gone{i}.h"\n' for i in range(n)}
        import_edges(Counting(files))
        return Counting.asked

    assert asked(400) < 2.2 * asked(200)


# --- the step --------------------------------------------------------------------------------------------------------


def record(path: str, text: str, lang: str = "python", source: str = "repo", **more: str) -> dict:
    identity = f"{source}/{more.get('repository', '')}/{path}"
    return {"id": identity, "text": text, "type": "code", "lang": lang, "source": source, "path": path} | more


def ordered(lab: Lab, records: list[dict], **config):
    by_lang: dict[str, list[dict]] = {}
    for row in records:
        by_lang.setdefault(f"type=code/lang={row['lang']}/part-00000{JSONL}", []).append(row)
    made = lab.step("curation.order_code", OrderCodeConfig(**config), corpus=lab.issue("corpus", by_lang))["output"]
    return made, [r for s in made.shards for r in read_jsonl(lab.store.blob_path(s.blob))]


def test_a_source_of_several_repositories_gives_each_its_own_documents(tmp_path):
    records = [
        record("a.py", "import b", repository="one"),
        record("b.py", "x = 1", repository="one"),
        record("a.py", "x = 2", repository="two"),
        record("b.py", "import a", repository="two"),
        record("b.py", "x = 3"),
        record("a.c", "int x;", lang="c", source="other", repository="one"),
    ]
    made, documents = ordered(Lab(tmp_path), records)
    found = {(d["source"], d.get("repository")): [f["path"] for f in d["files"]] for d in documents}
    assert found == {
        ("repo", "one"): ["b.py", "a.py"],
        ("repo", "two"): ["a.py", "b.py"],
        ("repo", None): ["b.py"],
        ("other", "one"): ["a.c"],
    }
    assert made.counts["repositories"] == 4 and made.counts["code_files"] == 6


def test_cycles_are_counted_and_named(tmp_path):
    records = [record("b.py", "import a"), record("a.py", "import c"), record("c.py", "import b"), record("d.py", "")]
    made, _ = ordered(Lab(tmp_path), records)
    assert made.counts["cycles"] == 1
    assert made.facts["cycles"] == [{"repository": "repo", "files": 3, "first": ["a.py", "c.py", "b.py"]}]
    none, _ = ordered(Lab(tmp_path / "other"), [record("a.py", "")])
    assert none.counts["cycles"] == 0 and "cycles" not in none.facts


def test_two_records_of_one_path_are_both_there(tmp_path):
    copies = [record("a.py", f"x = {n}") | {"id": f"id{n}"} for n in (2, 1)]
    (document,) = repository_documents(copies, max_bytes=1000)
    assert [f["id"] for f in document["files"]] == ["id1", "id2"]


def test_groups_of_repositories_do_not_change_the_documents(tmp_path, monkeypatch):
    """A worker holds one group at a time: however small, the corpus is the same."""
    rng = random.Random(2)
    records = [
        record(f"m{i}.py", f"import m{rng.randrange(10)}\n" + "x" * rng.randrange(50), source=f"s{rng.randrange(6)}")
        for i in range(60)
    ]
    whole, _ = ordered(Lab(tmp_path / "whole"), records)
    monkeypatch.setattr(module, "GROUP_BYTES", 100)
    apart, _ = ordered(Lab(tmp_path / "apart"), records)
    assert apart.content == whole.content and apart.counts == whole.counts
