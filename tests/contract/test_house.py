"""The walls: one import name out of three roots, and imports that go one way."""

import ast
import platform
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = {"platform": 0, "components": 1, "pipelines": 2}
PHASES = ("curation", "pretraining", "enhancement", "sft", "rlhf", "evaluation", "deployment")


def modules():
    for root in ROOTS:
        for path in sorted((ROOT / root / "tokenmill").rglob("*.py")):
            yield root, path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def home(module):
    """The root that a tokenmill module lives in."""
    relative = Path(*module.split("."))
    for root in ROOTS:
        base = ROOT / root / relative
        if base.with_suffix(".py").exists() or base.is_dir():
            return root
    return None


def test_no_init_file_shadows_the_standard_library_or_ends_the_namespace():
    offenders = [p for root in ROOTS for p in (ROOT / root / "__init__.py", ROOT / root / "tokenmill" / "__init__.py")]
    assert [str(p) for p in offenders if p.exists()] == []
    assert platform.python_version()


def test_no_module_is_in_two_roots():
    seen = {}
    for root, path in modules():
        name = path.relative_to(ROOT / root).as_posix()
        assert name not in seen, f"{name} is in {seen.get(name)} and {root}"
        seen[name] = root


def test_imports_go_from_pipelines_to_components_to_platform():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for root, path in modules()
        for name in imports(path)
        if name.startswith("tokenmill.") and (there := home(name)) and ROOTS[there] > ROOTS[root]
        # the doctor of the serving environment and the phases are found by name, not imported
    ]
    assert wrong == []


def test_no_phase_imports_another():
    wrong = []
    for root, path in modules():
        if root != "components":
            continue
        own = path.relative_to(ROOT / root / "tokenmill").parts[0]
        wrong += [
            f"{path.relative_to(ROOT)} imports {name}"
            for name in imports(path)
            if name.startswith("tokenmill.") and name.split(".")[1] in PHASES and name.split(".")[1] != own
        ]
    assert wrong == []


@pytest.mark.parametrize("phase", PHASES)
def test_finding_a_step_imports_no_torch(phase, run_python):
    run_python(
        f"import sys; from tokenmill.steps import load_phase; assert load_phase('{phase}'), 'no steps'; "
        "heavy = {'torch', 'mlflow', 'deepspeed', 'kfp'} & set(sys.modules); assert not heavy, heavy"
    )


def test_importing_kfp_parses_no_grammar(run_python):
    """Every task pays its imports: jsonschema's formats would parse one of all IRIs, 3 s of each."""
    run_python("import kfp, sys; assert 'lark' not in sys.modules")


def test_the_wheel_takes_the_three_roots():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["dev-mode-dirs"] == list(ROOTS)
    assert build["targets"]["wheel"]["packages"] == [f"{root}/tokenmill" for root in ROOTS]


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_has_its_door_its_config_and_its_page(phase):
    folder = ROOT / "components" / "tokenmill" / phase
    assert [n for n in ("component.py", "config.py", "README.md", "metadata.yaml") if not (folder / n).exists()] == []


def test_component_bodies_are_doors_of_at_most_fifteen_lines():
    for root in ("components", "pipelines"):
        for path in (ROOT / root / "tokenmill").rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and any(
                    "dsl.component" in ast.unparse(d) for d in node.decorator_list
                ):
                    assert node.end_lineno - node.body[0].lineno + 1 <= 15, f"{path}:{node.name}"


def test_steps_lock_holds_every_step_as_it_is():
    from tokenmill.steps.lock import current, read_lock, refresh

    lock = read_lock(ROOT / "steps.lock")
    _, problems = refresh(lock, [])
    assert problems == []
    assert lock == current(), "run `tokenmill lock`"


def test_a_lock_that_is_behind_is_refused(tmp_path, monkeypatch):
    from tokenmill.cli.inspecting import lock
    from tokenmill.errors import InputError
    from tokenmill.steps.lock import current, write_lock

    monkeypatch.chdir(tmp_path)
    entries = current()
    write_lock(Path("steps.lock"), entries)
    lock(check=True)
    entries["curation.filter"] = {"version": 0, "hash": "0" * 16}  # raised since, and nobody wrote it down
    write_lock(Path("steps.lock"), entries)
    with pytest.raises(InputError, match=r"behind for curation\.filter: run `tokenmill lock`"):
        lock(check=True)
