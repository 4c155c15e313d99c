"""What moves a step's hash: code that its module reaches through imports. Oracles: planted trees, and known users."""

from pathlib import Path

import pytest

import tokenmill
from tokenmill.steps import find, lock
from tokenmill.steps.lock import WORKER, behaviour

ROOTS = tuple(map(Path, tokenmill.__path__))


def reached(step: str) -> set[str]:
    return set(behaviour((find(step).function.__module__,), ROOTS))


@pytest.mark.parametrize(
    ("step", "modules"),
    [
        ("evaluation.evaluate", {"tokenmill.model.modeling", "tokenmill.model.attention", "model/chat_template.jinja"}),
        ("evaluation.prepare", {"tokenmill.overlap"}),
        ("evaluation.contamination", {"tokenmill.overlap", "tokenmill.lineage"}),
        ("enhancement.prepare", {"tokenmill.overlap"}),
        ("rlhf.probe", {"tokenmill.model.generation", "tokenmill.rlhf.scoring"}),
        ("rlhf.evaluate_reward_model", {"tokenmill.model.modeling", "rlhf/rm_prompts.yaml"}),
        ("deployment.bundle", {"tokenmill.model.folder", "tokenmill.model.layout"}),
        ("pretraining.tokenize", {"tokenmill.training.tokens", "tokenmill.model.tokenizer"}),
        ("pretraining.train_tokenizer", {"tokenmill.model.tokenizer"}),
        ("curation.filter", {"tokenmill.curation.rules", "curation/rules/en_web.yaml"}),
    ],
)
def test_a_step_depends_on_what_it_uses(step, modules):
    assert modules <= reached(step)


def test_a_step_does_not_depend_on_plumbing_nor_on_the_steps_beside_it():
    modules = reached("curation.filter")
    assert not {m for m in modules if m.startswith(("tokenmill.store", "tokenmill.steps", "tokenmill.tracking"))}
    assert "tokenmill.curation.order_code" not in modules and "tokenmill.curation.component" not in modules


def test_a_training_step_and_no_other_depends_on_the_worker_that_runs_it(monkeypatch):
    assert {"tokenmill.training.loop", "tokenmill.training.engine"} <= set(behaviour((WORKER,), ROOTS))
    steps = [find(name) for name in ("pretraining.pretrain.long", "curation.filter")]
    before = [lock.step_hash(one) for one in steps]
    monkeypatch.setattr(lock, "WORKER", "tokenmill.overlap")
    assert [lock.step_hash(one) == hashed for one, hashed in zip(steps, before, strict=True)] == [False, True]


@pytest.fixture
def tree(tmp_path):
    """A module that imports at its top, in a function, for its types alone, and a thing that imports a third."""
    files = {
        "phase/work.py": (
            '"""Work."""\nfrom typing import TYPE_CHECKING\nfrom tokenmill.phase import beside\n'
            "if TYPE_CHECKING:\n    from tokenmill import types\n"
            "def work():\n    import tokenmill.deep\n    from tokenmill.store import get\n"
        ),
        "phase/beside.py": "from tokenmill.shared import thing\n",
        "phase/words.txt": "word",
        "phase/__init__.py": "",
        "phase/other.py": "",
        "shared.py": "thing = 1  # a comment\n",
        "deep.py": "",
        "types.py": "",
        "store.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_imports_are_followed_wherever_they_are(tree):
    assert set(behaviour(("tokenmill.phase.work",), (tree,))) == {
        *("tokenmill.phase.work", "tokenmill.phase.beside", "tokenmill.shared", "tokenmill.deep", "phase/words.txt")
    }


@pytest.mark.parametrize(
    ("name", "text", "moves"),
    [
        ("shared.py", "thing = 2\n", True),
        ("shared.py", "thing = 1  # another comment\n", False),
        ("phase/words.txt", "another", True),
        ("deep.py", "x = 1\n", True),
        ("phase/other.py", "x = 1\n", False),
        ("store.py", "x = 1\n", False),
    ],
)
def test_a_hash_moves_with_the_code_it_reaches_and_with_no_other(tree, name, text, moves):
    before = behaviour(("tokenmill.phase.work",), (tree,))
    (tree / name).write_text(text)
    lock._read.cache_clear()
    lock._data.cache_clear()
    assert (behaviour(("tokenmill.phase.work",), (tree,)) != before) == moves
