"""checkov finds nothing that helm/.checkov.yaml does not explain. It brings 100 packages: an environment of its own, where there is one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from rendered import CHARTS, MODES, ROOT, render

BESIDE = ROOT / ".venv-checkov/bin/checkov"
CHECKOV = os.environ.get("TOKENMILL_CHECKOV") or (str(BESIDE) if BESIDE.exists() else shutil.which("checkov"))


@pytest.mark.skipif(not CHECKOV, reason="no checkov: make peers")
def test_checkov_finds_nothing_unexplained(tmp_path: Path):
    for chart, mode in MODES:
        (tmp_path / f"{chart}-{mode}.yaml").write_text(yaml.safe_dump_all(render(chart, mode).objects))
    done = subprocess.run(
        [CHECKOV, "--config-file", CHARTS / ".checkov.yaml", "--directory", tmp_path, "--skip-download"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def test_long_running_pods_are_probed():
    for chart, mode in MODES:
        for name, pod in render(chart, mode).pods():
            if name.startswith(("Deployment", "StatefulSet")):
                for container in pod["spec"]["containers"]:
                    assert {"readinessProbe", "livenessProbe"} <= container.keys(), name
