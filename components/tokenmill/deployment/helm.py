"""Helm's own program, 3 or 4: render, upgrade or undo, go back. It reaches the cluster as `kubectl` does."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tokenmill.errors import ConfigError, UserError, first_line

_REPOSITORY = Path(__file__).resolve().parents[3]
_NOISE = ("WARNING:", "level=", "coalesce")
_MISSING = ("release: not found", "has no deployed releases")


class HelmFailed(UserError):
    """Helm did not do it; its last words."""


def inference_chart() -> Path:
    """The chart `inference`: beside the installed package, as the image `deployer` has it, or in the repository.

    Raises:
        ConfigError: it is in neither place.
    """
    places = (Path(__file__).parents[1] / "charts" / "inference", _REPOSITORY / "helm" / "inference")
    for place in places:
        if (place / "Chart.yaml").is_file():
            return place
    raise ConfigError("the chart `inference` is not installed here: say where it is (--chart FOLDER or oci://…)")


class Helm:
    """One program, one namespace.

    Args:
        program: name or path of helm; the one that `scripts/helm.sh` fetches is found by itself.
        namespace: that releases live in.
        context: of the kubeconfig; None: the current one, or the pod's own cluster.

    Raises:
        ConfigError: there is no such program.
    """

    def __init__(self, namespace: str, *, program: str = "helm", context: str | None = None) -> None:
        found = shutil.which(program) or shutil.which(str(_REPOSITORY / ".venv-helm" / "helm-4"))
        if found is None:
            raise ConfigError(f"no program {program!r}: install Helm 3.17 or later, or say where it is with --helm")
        self.program, self.namespace = found, namespace
        self._where = ["--namespace", namespace, *(["--kube-context", context] if context else [])]

    @cached_property
    def major(self) -> int:
        return int(self._run("version", "--template", "{{.Version}}", anywhere=True).lstrip("v").split(".")[0])

    def render(self, release: str, chart: str | Path, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The objects that the chart makes of `values`; nothing is asked of the cluster."""
        with _file(values) as path:
            text = self._run("template", release, str(chart), "-f", path)
        return _objects(text)

    def upgrade(
        self, release: str, chart: str | Path, values: Mapping[str, Any], *, timeout_s: float, description: str = ""
    ) -> None:
        """Install or upgrade, and wait until everything is ready and every hook is content; otherwise undo it.

        Raises:
            HelmFailed: it was undone; users have what they had.
        """
        undo = "--rollback-on-failure" if self.major >= 4 else "--atomic"
        told = ["--description", description] if description else []
        with _file(values) as path:
            command = ["upgrade", release, str(chart), "--install", "--wait", undo, "--history-max", "10", "-f", path]
            self._run(*command, "--timeout", _seconds(timeout_s), *told)

    def rollback(self, release: str, revision: int, *, timeout_s: float) -> None:
        """Make an earlier revision the present one, and wait until it serves."""
        self._run("rollback", release, str(revision), "--wait", "--timeout", _seconds(timeout_s))

    def uninstall(self, release: str, *, timeout_s: float) -> None:
        self._run("uninstall", release, "--wait", "--timeout", _seconds(timeout_s))

    def test(self, release: str, *, timeout_s: float) -> str:
        """Run the chart's test pods; what they printed."""
        return self._run("test", release, "--logs", "--timeout", _seconds(timeout_s))

    def history(self, release: str) -> list[dict[str, Any]]:
        """Revisions, oldest first, each with `revision`, `status` and `description`; none if there is no release."""
        return list(json.loads(self._ask("history", release, "-o", "json") or "[]"))

    def deployed(self, release: str) -> int | None:
        """The revision that users have; None if there is none."""
        found = [one["revision"] for one in self.history(release) if one["status"] == "deployed"]
        return int(found[-1]) if found else None

    def values(self, release: str, revision: int) -> dict[str, Any]:
        """The values that a revision was given."""
        return dict(json.loads(self._run("get", "values", release, "--revision", str(revision), "-o", "json")) or {})

    def manifest(self, release: str, revision: int) -> list[dict[str, Any]]:
        """The objects of a revision."""
        return _objects(self._run("get", "manifest", release, "--revision", str(revision)))

    def _ask(self, *arguments: str) -> str:
        """Like `_run`; empty where the release does not exist."""
        try:
            return self._run(*arguments)
        except HelmFailed as refused:
            if any(words in str(refused) for words in _MISSING):
                return ""
            raise

    def _run(self, *arguments: str, anywhere: bool = False) -> str:
        command = [self.program, *arguments, *([] if anywhere else self._where)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            said = [line.removeprefix("Error: ") for line in lines if not line.startswith(_NOISE)]
            raise HelmFailed(f"helm {arguments[0]}: {' '.join(said)[-1000:] or f'exit code {done.returncode}'}")
        return done.stdout


def _objects(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]


def _seconds(value: float) -> str:
    return f"{value:.0f}s"


@contextmanager
def _file(values: Mapping[str, Any]) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(dict(values), file, allow_unicode=True)
        file.flush()
        yield file.name


def read_values(paths: Sequence[Path]) -> dict[str, Any]:
    """Files of values, later ones over earlier ones, as Helm lays them.

    Raises:
        ConfigError: one cannot be read, or is no mapping.
    """
    from tokenmill.config import merge

    values: dict[str, Any] = {}
    for path in paths:
        try:
            read = yaml.safe_load(path.read_text()) or {}
        except (OSError, yaml.YAMLError) as wrong:
            raise ConfigError(f"{path}: {first_line(wrong)}") from None
        if not isinstance(read, dict):
            raise ConfigError(f"{path}: expected a mapping of the chart's values")
        values = merge(values, read)
    return values
