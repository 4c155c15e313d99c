"""Launching ranks through torchx."""

import pytest

pytestmark = pytest.mark.integration


def test_torchx_keeps_quiet_where_the_root_logger_tells_everything(run_python, tmp_path):
    told = run_python(
        "import logging, sys\n"
        "logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)\n"
        "events = logging.getLogger('torchx-events-null')\n"
        "events.addHandler(logging.StreamHandler(sys.stdout))\n"
        "from tokenmill.launch.training import _run\n"
        "from tokenmill.training.settings import TrainingExecution\n"
        "from tokenmill.training.watchdog import Watchdog\n"
        "from tokenmill.store import open_store\n"
        f"watchdog = Watchdog(open_store('file://{tmp_path}'), 'work/0/1', 1, 60)\n"
        "print(_run('file:///nowhere/work/0/1/spec.json', TrainingExecution(ranks=1), watchdog)[0])"
    )
    assert told.splitlines()[-1] == "FAILED"
    assert "torchx" not in told
