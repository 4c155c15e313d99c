"""What tests of every layer share."""

import os
import subprocess
import sys

import hypothesis
import pytest

# the first call of what is compiled takes seconds, and a machine may be busy: no example is timed
hypothesis.settings.register_profile("tokenmill", deadline=None)
hypothesis.settings.load_profile("tokenmill")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENMILL_LOG", "warning")
LAYERS = ("unit", "contract", "integration", "containers", "e2e")


def pytest_collection_modifyitems(items):
    """Cheap layers first, so that failures come early."""
    items.sort(key=lambda item: next((i for i, layer in enumerate(LAYERS) if f"/{layer}/" in str(item.path)), 0))


@pytest.fixture
def run_python():
    """Run code in a fresh interpreter; returns its output."""

    def run(code, **environment):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def workers_at_once(monkeypatch):
    """Other processes help from the first item on, though a test's work is done before it is worth one; and some did."""
    from tokenmill.steps import pool

    helped, hand_out = [], pool._Work.hand_out

    def seen(work, others):
        helped.extend(list(work.left)[:1])
        hand_out(work, others)

    monkeypatch.setattr(pool, "WORTH_S", {"fork": 0, "spawn": 0})
    monkeypatch.setattr(pool._Work, "hand_out", seen)
    yield
    assert helped, "this process did all of it"
