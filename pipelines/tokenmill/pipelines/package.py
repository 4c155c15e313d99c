"""Compiling and submitting: a pipeline by name, for one preset and one profile.

Every compiled task has KFP's cache off: ours is the only one, and KFP's would skip tracking, leases and effects.
"""

import importlib
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tokenmill.config import merge
from tokenmill.errors import ConfigError, first_line
from tokenmill.manifest import sha256
from tokenmill.pipelines.handed_on import HANDED_ON
from tokenmill.pipelines.opening import refuse_execution

PARTS = ("curation", "pretraining", "enhancement", "sft", "alignment", "evaluation", "deployment")
NAMES = ("lifecycle", *PARTS, "continual", "retrieval", "serve", "benchmark", "smoke")
_COPY = re.compile(r"-\d+$")
"""What KFP puts behind a task's name where it stands in a pipeline more than once, as those of rounds do."""


def build(name: str, preset: str) -> Any:
    """The pipeline `name`, made for `preset`."""
    if name not in NAMES:
        raise ConfigError(f"no pipeline named {name!r}. Pipelines: {', '.join(NAMES)}")
    module = importlib.import_module(f"tokenmill.pipelines.{'parts' if name in PARTS else name}")
    return getattr(module, name)(preset)


def check_parameters(name: str, pipeline: Any, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that the pipeline does not have, and say what those are that it lacks."""
    known = pipeline.component_spec.inputs or {}
    if unknown := sorted(set(parameters) - set(known)):
        raise ConfigError(f"{name} has no parameter {unknown[0]!r}. It has {', '.join(known)}")
    if missing := [n for n, spec in known.items() if not spec.optional and n not in parameters]:
        makers = ", ".join(f"{n} (made by {HANDED_ON[n].pipeline})" if n in HANDED_ON else n for n in missing)
        flags = " ".join(f"--input {n}=<manifest>" if n in HANDED_ON else f"--arg {n}=<list>" for n in missing)
        raise ConfigError(
            f"{name} lacks {makers}: give {flags}. A run names what it made in its last lines (`hand on`); "
            "`tokenmill lineage <model>` shows what went into a model"
        )


def compile_package(name: str, preset: str, profile: str, path: Path, registry: str | None = None) -> None:
    """Write the YAML that the Kubeflow UI takes."""
    from kfp import compiler

    settings = load_profile(profile)
    pipeline = build(name, preset)
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, str(path), pipeline_name=f"tokenmill-{name}-{preset}-{profile}")
    documents = list(yaml.safe_load_all(path.read_text()))
    documents = apply_profile(documents, settings, registry)
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True))


def load_profile(name: str) -> dict[str, Any]:
    folder = resources.files("tokenmill") / "profiles"
    known = {f.name.removesuffix(".yaml"): f for f in folder.iterdir() if f.name.endswith(".yaml")}
    if name not in known:
        raise ConfigError(f"unknown profile {name!r}. Profiles: {', '.join(sorted(known))}")
    return dict(yaml.safe_load(known[name].read_text()))


def apply_profile(documents: list[Any], settings: dict[str, Any], registry: str | None) -> list[Any]:
    """Put resources, Secrets, tolerations, images and retries on what a compiled package starts, and KFP's cache off.

    A profile speaks of images (`trainer`, `curation`…), because what a task needs follows from what runs in it; of single
    `tasks` it speaks where one alone may hold a Secret. Its
    `kubernetes` parts are kfp-kubernetes' own executor config, and checked as such; its `retry` is a task's `retryPolicy`.
    It is no part of the pipeline, so a run on a laptop fails at once.
    """
    from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
    from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig

    spec = documents[0]
    on_kubernetes: dict[str, Any] = {}
    retries: dict[str, dict[str, Any]] = {}
    for name, executor in spec["deploymentSpec"]["executors"].items():
        container = executor["container"]
        kind = container["image"].partition(":")[0].rpartition("/")[2]
        own = merge(settings.get("all", {}), settings.get("images", {}).get(kind, {}))
        own = _added(own, settings.get("tasks", {}).get(_COPY.sub("", name.removeprefix("exec-")), {}))
        if own.get("resources"):
            container["resources"] = {what: much for what, much in own["resources"].items() if much}
        if own.get("retry"):
            retries[name] = own["retry"]
        if registry:
            container["image"] = f"{registry.rstrip('/')}/{container['image']}"
        try:
            on_kubernetes[name] = MessageToDict(ParseDict(own.get("kubernetes", {}), KubernetesExecutorConfig()))
        except ParseError as wrong:
            raise ConfigError(f"profile, image {kind!r}: {wrong}") from None
    for component in (spec["root"], *spec["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            task["cachingOptions"] = {}
            executor = spec["components"][task["componentRef"]["name"]].get("executorLabel")
            if executor in retries:
                task["retryPolicy"] = retries[executor]
    return [spec, {"platforms": {"kubernetes": {"deploymentSpec": {"executors": on_kubernetes}}}}]


def _added(settings: Any, more: Any) -> Any:
    """What a task has beyond others of its image: its lists go on where theirs end; null takes away."""
    if isinstance(settings, dict) and isinstance(more, dict):
        return settings | {key: _added(settings.get(key), value) for key, value in more.items()}
    return [*settings, *more] if isinstance(settings, list) else more


class Where(NamedTuple):
    """Where a run goes. A team has a namespace, an experiment and an account for its steps of its own."""

    host: str | None
    namespace: str
    experiment: str
    account: str | None = None


def submit_package(
    name: str, preset: str, profile: str, parameters: dict[str, Any], where: Where, registry: str | None
) -> str:
    """Compile, upload and start; returns the run's address in the Kubeflow UI."""
    import tempfile

    from kfp import Client

    if not where.host:
        raise ConfigError("where is Kubeflow Pipelines? Set KFP_ENDPOINT or --host, e.g. http://localhost:8080")
    check_parameters(name, build(name, preset), parameters)
    refuse_execution(parameters.get("overrides", {}))
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / f"{name}-{preset}-{profile}.yaml"
        compile_package(name, preset, profile, package, registry)
        try:
            client = Client(host=where.host, namespace=where.namespace)
            started = client.create_run_from_pipeline_package(
                str(package),
                arguments=parameters,
                experiment_name=where.experiment,
                namespace=where.namespace,
                service_account=where.account,
                enable_caching=False,
            )
        except Exception as refused:  # kfp raises whatever urllib3 or the server gives it
            raise ConfigError(f"Kubeflow Pipelines at {where.host} did not take it: {first_line(refused)}") from refused
    return f"{where.host.rstrip('/')}/#/runs/details/{started.run_id}"


def upload_package(name: str, preset: str, profile: str, host: str, registry: str | None) -> tuple[str, bool]:
    """Compile, and upload as a version of its pipeline that is named for what it says.

    Returns:
        `pipeline @ version`, and whether it had to be uploaded: the same package is the same version for ever.
    """
    import tempfile

    from kfp import Client

    pipeline = f"tokenmill-{name}-{preset}-{profile}"
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / f"{pipeline}.yaml"
        compile_package(name, preset, profile, package, registry)
        version = sha256(package.read_bytes())[:12]
        try:
            client = Client(host=host)
            known = client.get_pipeline_id(pipeline)
            if known is None:
                client.upload_pipeline(str(package), pipeline_name=pipeline, description=f"TokenMill's {name}")
                known = client.get_pipeline_id(pipeline)
            versions = client.list_pipeline_versions(known, page_size=100, sort_by="created_at desc").pipeline_versions
            if any(found.display_name == version for found in versions or []):
                return f"{pipeline} @ {version}", False
            client.upload_pipeline_version(str(package), version, pipeline_id=known)
        except Exception as refused:  # kfp raises whatever urllib3 or the server gives it
            raise ConfigError(
                f"Kubeflow Pipelines at {host} did not take {pipeline}: {first_line(refused)}"
            ) from refused
    return f"{pipeline} @ {version}", True
