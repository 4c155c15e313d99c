"""`make e2e-kind` without a cluster: both Helms accept every chart that it would install, with the values it would give."""

import os
import re
import shutil
import subprocess

import pytest
from rendered import HELM_FOLDER, ROOT, every_helm, needs_helm, render

from tokenmill.images import TAG

SCRIPT = ROOT / "scripts/e2e_kind.sh"
STAGES = [
    "helm install tokenmill",
    "helm install chat",
    "helm upgrade chat",
    "helm rollback chat",
    "helm uninstall chat",
]


def dry_run(folder, name, script=SCRIPT):
    """Run it dry with one of the Helms, and with a kind, kubectl and docker that fail if they are called."""
    (folder / "bin").mkdir()
    (folder / "bin/helm").symlink_to(HELM_FOLDER / name)
    for never in ("kind", "kubectl", "docker"):
        (folder / "bin" / never).write_text("#!/bin/sh\nexit 9\n")
        (folder / "bin" / never).chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", str(script), "--dry-run"]
    return subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)


@needs_helm
@every_helm
def test_a_dry_run_renders_all_that_it_would_install_and_says_every_stage_in_order(name, tmp_path):
    done = dry_run(tmp_path, name)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    at = [next(i for i, line in enumerate(said) if stage in line) for stage in STAGES]
    assert at == sorted(at)
    assert f"{'--rollback-on-failure' if name == 'helm-4' else '--atomic'} --set canary.enabled=true" in done.stdout
    assert done.stdout.rstrip().endswith("nothing was installed")


@needs_helm
def test_a_dry_run_fails_on_a_value_that_the_chart_does_not_have(tmp_path):
    (tmp_path / "scripts").mkdir()
    wrong = tmp_path / "scripts/e2e_kind.sh"
    wrong.write_text(re.sub(r"engine\.maxNumSeqs", "engine.maxNumSequences", SCRIPT.read_text()))
    for name in ("helm", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = dry_run(tmp_path, "helm-4", wrong)
    assert done.returncode != 0
    assert "maxNumSequences" in done.stderr


@needs_helm
def test_the_images_that_are_brought_onto_the_node_are_those_that_its_pods_name():
    canary = {"canary": {"enabled": True, "model": {"uri": "s3://tokenmill/releases/next", "digest": "5" * 64}}}
    pods = [spec for chart, changes in (("tokenmill", {}), ("inference", canary)) for spec in specs(chart, changes)]
    asked = {one["image"] for spec in pods for one in (*spec.get("initContainers", []), *spec["containers"])}
    (loaded,) = re.findall(r"for name in (.*); do run kind load", SCRIPT.read_text())
    assert asked == {f"tokenmill/{name}:{TAG}" for name in loaded.split()}
    (saved,) = re.findall(r"docker save tokenmill/\{(.*)\}:", (ROOT / "docs/operations/trial.md").read_text())
    assert saved.split(",") == loaded.split()


def specs(chart, changes):
    return [template["spec"] for _, template in render(chart, "cpu", changes).pods()]


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck: apt-get install shellcheck")
def test_shellcheck_has_nothing_to_say_about_any_script():
    scripts = [*ROOT.glob("scripts/*.sh"), *ROOT.glob("images/*.sh"), *ROOT.glob(".ci/*.sh"), ROOT / ".ci/run"]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert done.stdout == ""
