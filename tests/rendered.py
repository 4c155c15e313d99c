"""Charts as the real Helm renders them, for tests. `scripts/helm.sh` fetches Helm 3.17 and 4.2."""

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CHARTS = ROOT / "helm"
HELM_FOLDER = Path(os.environ.get("TOKENMILL_HELM", ROOT / ".venv-helm"))
HELMS = ("helm-3", "helm-4")
WORKLOADS = ("Deployment", "StatefulSet", "Job", "Pod")
MODES = [
    (path.parents[1].name, path.stem.removesuffix("-values")) for path in sorted(CHARTS.glob("*/ci/*-values.yaml"))
]
"""Every chart with every file of values that it comes with."""
every_mode = pytest.mark.parametrize(("chart", "mode"), MODES, ids=[f"{chart}/{mode}" for chart, mode in MODES])
every_helm = pytest.mark.parametrize("name", HELMS)
needs_helm = pytest.mark.skipif(
    not all((HELM_FOLDER / name).exists() for name in HELMS), reason="no Helm: run scripts/helm.sh"
)


class HelmRefused(Exception):
    """Helm did not render; its words."""


@dataclass(frozen=True)
class Chart:
    """One rendering: every object, and the notes."""

    objects: tuple

    def of(self, kind: str, name: str | None = None) -> list[dict]:
        return [o for o in self.objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]

    def one(self, kind: str, name: str | None = None) -> dict:
        (found,) = self.of(kind, name)
        return found

    def pods(self) -> list[tuple[str, dict]]:
        """Name and pod template (metadata, spec) of everything that makes pods."""
        found = []
        for o in self.objects:
            if o["kind"] in WORKLOADS:
                template = o if o["kind"] == "Pod" else o["spec"]["template"]
                found.append((f"{o['kind']}/{o['metadata']['name']}", template))
        return found


def helm(name: str, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run([HELM_FOLDER / name, *arguments], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HelmRefused(done.stderr or done.stdout)
    return done.stdout


@cache
def _rendered(name: str, chart: str, mode: str, changes: str, kube: str) -> Chart:
    command = [name, "template", "rel", str(CHARTS / chart), "--namespace", "llm", "--kube-version", kube]
    text = helm(*command, "-f", str(CHARTS / chart / "ci" / f"{mode}-values.yaml"), "-f", "-", stdin=changes)
    return Chart(tuple(filter(None, yaml.load_all(text, yaml.CSafeLoader))))


def render(chart: str, mode: str, changes: dict | None = None, *, name: str = "helm-4", kube: str = "1.36.0") -> Chart:
    """`helm template rel CHART -n llm` with one of its ci files and what a test changes of it."""
    return _rendered(name, chart, mode, json.dumps(changes or {}), kube)
