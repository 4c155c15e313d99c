"""Repositories as documents. Oracles: the orders that the spec names (check 10), and brute force."""

import random
from itertools import pairwise

import pytest

from tokenmill.curation.order_code import (
    Repository,
    markdown,
    repository_documents,
    strongly_connected,
    topological_order,
    walk_cycle,
)
from tokenmill.repositories.files import with_prose
from tokenmill.repositories.imports import import_edges


def order(**files: str) -> list[str]:
    named = {f"{name}.py": text for name, text in files.items()}
    return [path.removesuffix(".py") for path in topological_order(import_edges(named))]


def test_a_imports_b_imports_c_gives_c_b_a():
    assert order(a="import b", b="from c import x", c="x = 1") == ["c", "b", "a"]


def test_a_cycle_starts_at_its_alphabetically_first_file():
    assert order(b="import a", a="import b") == ["a", "b"]
    assert order(d="import c", c="import b", b="import d") == ["b", "d", "c"]


def test_free_files_nearest_to_an_entry_come_first_then_by_path():
    # app is the entry; far is two imports away, near one
    assert order(app="import near, middle", middle="import far", near="", far="") == ["near", "far", "middle", "app"]
    # both are freed by base: b is one import away from the entry, a is two
    assert order(base="", a="import base", b="import base", m="import a", app="import b, m") == [
        "base",
        "b",
        "a",
        "m",
        "app",
    ]
    # diamond: a imports b and c, which both import d
    assert order(a="import b, c", b="import d", c="import d", d="") == ["d", "b", "c", "a"]


def test_random_graphs_are_ordered_dependencies_first_and_the_same_every_time():
    rng = random.Random(3)
    for _ in range(40):
        names = [f"m{i:02d}" for i in range(25)]
        edges = {n: {t for t in names if t < n and rng.random() < 0.15} for n in names}  # acyclic by construction
        ordered = topological_order(edges)
        assert sorted(ordered) == names
        place = {name: i for i, name in enumerate(ordered)}
        assert all(place[target] < place[name] for name, targets in edges.items() for target in targets)
        shuffled = dict(rng.sample(sorted(edges.items()), len(edges)))
        assert topological_order(shuffled) == ordered


def test_components_against_mutual_reachability():
    rng = random.Random(5)
    for _ in range(40):
        names = "abcdefghij"
        edges = {n: {t for t in names if t != n and rng.random() < 0.15} for n in names}
        reach = {n: {n} for n in names}
        for _ in names:
            reach = {n: reach[n].union(*(reach[t] for t in edges[n])) for n in names}
        expected = {frozenset(t for t in reach[n] if n in reach[t]) for n in names}
        assert {frozenset(c) for c in strongly_connected(edges)} == expected
        for component in expected:
            assert sorted(walk_cycle(component, edges)) == sorted(component)
            assert walk_cycle(component, edges)[0] == min(component)


def test_a_chain_deeper_than_pythons_stack():
    names = [f"m{i:05d}" for i in range(3000)]
    edges = {name: {target} for name, target in pairwise(names)} | {names[-1]: set()}
    assert topological_order(edges) == names[::-1]


def test_prose_stands_before_the_first_code_file_of_its_folder():
    code = ["lib/util/b.py", "lib/a.py", "main.py"]
    prose = {"README.md", "lib/README.md", "lib/util/notes.txt", "docs/guide.md"}
    assert with_prose(code, prose) == [
        "lib/util/notes.txt", "lib/util/b.py", "lib/README.md", "lib/a.py", "README.md", "docs/guide.md", "main.py",
    ]  # fmt: skip
    assert with_prose(["pkg/a.py"], {"README.md"}) == ["README.md", "pkg/a.py"]
    assert with_prose([], {"b.md", "a.md"}) == ["a.md", "b.md"]


# --- imports ---------------------------------------------------------------------------------------------------------


def test_init_re_export_resolves_to_the_finer_file():
    files = {
        "pkg/__init__.py": "from .sub import thing\nfrom pkg import other\nVERSION = 1\n",
        "pkg/sub.py": "thing = 1\n",
        "pkg/other.py": "",
        "use_thing.py": "from pkg import thing\n",
        "use_module.py": "from pkg import other\n",
        "use_own.py": "from pkg import VERSION\n",
    }
    edges = import_edges(files)
    assert edges["use_thing.py"] == {"pkg/sub.py"}
    assert edges["use_module.py"] == {"pkg/other.py"}
    assert edges["use_own.py"] == {"pkg/__init__.py"}


@pytest.mark.parametrize(
    ("path", "statement", "targets"),
    [
        ("src/p/a.py", "from . import b", {"src/p/b.py"}),
        ("src/p/a.py", "from .b import (\n    x,  # why\n    y as z,\n)", {"src/p/b.py"}),
        ("src/p/a.py", "import p.b as pb, os", {"src/p/b.py"}),
        ("src/p/a.py", "if True:\n    from p.q import c", {"src/p/q/c.py"}),
        ("src/p/q/c.py", "from ..b import x", {"src/p/b.py"}),
        ("src/p/q/c.py", "from .. import b", {"src/p/b.py"}),
        ("src/p/a.py", "from p.b import x", {"src/p/b.py"}),
        ("src/p/a.py", "import numpy\nfrom json import b\n# import p.b", set()),
        ("src/p/a.py", "from p.missing import x", {"src/p/__init__.py"}),
    ],
)
def test_python_imports(path, statement, targets):
    files = dict.fromkeys(["src/p/__init__.py", "src/p/a.py", "src/p/b.py", "src/p/q/__init__.py", "src/p/q/c.py"], "")
    assert import_edges(files | {path: statement})[path] == targets


@pytest.mark.parametrize(
    ("files", "path", "targets"),
    [
        ({"src/a.c": '#include "b.h"\n#include <stdio.h>', "src/b.h": "", "b.h": ""}, "src/a.c", {"src/b.h"}),
        ({"src/a.c": '# include "x/b.h"', "include/x/b.h": ""}, "src/a.c", {"include/x/b.h"}),
        ({"a.ts": "import { x } from './lib';\nimport r from 'react'", "lib/index.ts": ""}, "a.ts", {"lib/index.ts"}),
        ({"w/a.js": "const b = require('../b')", "b.js": ""}, "w/a.js", {"b.js"}),
        ({"s/x/A.java": "import x.y.B;\nimport java.util.List;", "s/x/y/B.java": ""}, "s/x/A.java", {"s/x/y/B.java"}),
        ({"A.java": "import static y.B.max;\nimport z.*;", "y/B.java": "", "z/C.java": ""}, "A.java",
         {"y/B.java", "z/C.java"}),
        ({"main.go": 'import (\n\t"fmt"\n\tq "ex.org/m/q"\n)', "q/one.go": "", "q/two.go": ""}, "main.go",
         {"q/one.go", "q/two.go"}),
        ({"src/main.rs": "mod util;\nuse crate::net::Socket;", "src/util.rs": "", "src/net/mod.rs": ""}, "src/main.rs",
         {"src/util.rs", "src/net/mod.rs"}),
    ],
)  # fmt: skip
def test_imports_of_other_languages(files, path, targets):
    assert import_edges(files)[path] == targets


# --- documents -------------------------------------------------------------------------------------------------------


def record(path: str, text: str, lang: str = "python") -> dict:
    return {"id": path, "text": text, "type": "code", "lang": lang, "source": "repo", "path": path, "scores": {}}


def test_a_repository_is_one_markdown_document_in_order():
    records = [
        record("pkg/a.py", "from .b import x"),
        record("pkg/b.py", "x = 1"),
        record("pkg/README.md", "Two modules.", "markdown"),
    ]
    (document,) = repository_documents(records, max_bytes=10_000)
    assert document["text"] == (
        "## pkg/README.md\n\nTwo modules.\n"
        "\n## pkg/b.py\n\n```python\nx = 1\n```\n"
        "\n## pkg/a.py\n\n```python\nfrom .b import x\n```\n"
    )
    assert document["lang"] == "python" and document["path"] == "pkg"
    assert [f["path"] for f in document["files"]] == ["pkg/README.md", "pkg/b.py", "pkg/a.py"]
    (again,) = repository_documents(records[::-1], max_bytes=10_000)
    assert again == document


def test_a_large_repository_goes_on_in_further_documents_of_whole_files():
    records = [record(f"f{i}.py", "x" * 100) for i in range(7)]
    documents = list(repository_documents(records, max_bytes=250))
    assert [len(d["files"]) for d in documents] == [2, 2, 2, 1]
    assert [f["path"] for d in documents for f in d["files"]] == [f"f{i}.py" for i in range(7)]


def test_files_in_tiers_give_their_document_the_mean_of_their_epochs_by_length():
    tiers = [record("a.py", "x" * 300) | {"epochs": 3}, record("b.py", "x" * 100) | {"epochs": 1}]
    assert [d["epochs"] for d in repository_documents(tiers, max_bytes=10_000)] == [round((900 + 100) / 400)]
    assert [d["epochs"] for d in repository_documents(tiers, max_bytes=350)] == [3, 1]
    assert all("epochs" not in d for d in repository_documents([record("a.py", "x")], max_bytes=10_000))


def test_a_fence_is_longer_than_any_inside():
    text = 'DOC = """\n````md\n```\n````\n"""'
    assert markdown("a.py", "python", text) == f"## a.py\n\n`````python\n{text}\n`````\n"


def test_each_archive_of_a_source_is_a_repository_of_its_own():
    def record(path: str, **more) -> dict:
        return {"source": "mirror", "path": path} | more

    assert str(Repository.of(record("a.tar.gz!/lib/x.py"))) == "mirror/a.tar.gz"
    assert Repository.of(record("a.tar.gz!/lib/x.py")) != Repository.of(record("b.tar.gz!/lib/x.py"))
    assert str(Repository.of(record("lib/x.py"))) == "mirror"
    assert str(Repository.of(record("a.zip!/x.py", repository="owner/name"))) == "mirror/owner/name"
