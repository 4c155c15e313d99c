"""A compiled package in a form that a person can read and compare: tasks, edges, parameters, resources.

`make golden` writes the shape that tests/contract/test_pipelines.py holds the lifecycle to.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tokenmill.pipelines.package import compile_package

GOLDEN = Path(__file__).parent / "contract" / "golden" / "lifecycle-pico-gpu.yaml"
HEAD = "# The compiled lifecycle: tasks, edges, parameters, resources. Written by `make golden`; read its diff.\n"
Spec = dict[str, Any]


def shape(spec: Spec) -> Spec:
    """Name, parameters with type and default, and every task by the box it is in."""
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    return {
        "name": spec["pipelineInfo"]["name"],
        "parameters": {
            name: f"{p['parameterType']} = {p.get('defaultValue')}" for name, p in sorted(parameters.items())
        },
        "tasks": _tasks(spec, spec["root"]),
    }


def _tasks(spec: Spec, component: Spec) -> Spec:
    return {name: _task(spec, task) for name, task in sorted(component["dag"]["tasks"].items())}


def _task(spec: Spec, task: Spec) -> Spec:
    component = spec["components"][task["componentRef"]["name"]]
    inputs = task.get("inputs", {})
    edges = {**inputs.get("parameters", {}), **inputs.get("artifacts", {})}
    found = {
        "takes": {name: _source(edge) for name, edge in sorted(edges.items())},
        "after": task.get("dependentTasks", []),
        "when": task.get("triggerPolicy", {}).get("condition") or task.get("triggerPolicy", {}).get("strategy"),
    }
    if "dag" in component:
        found["tasks"] = _tasks(spec, component)
    else:
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        found["image"] = container["image"].partition(":")[0]
        found["resources"] = _resources(container.get("resources", {}))
        found["retries"] = task.get("retryPolicy", {}).get("maxRetryCount")
    return {name: value for name, value in found.items() if value}


def _resources(given: Spec) -> str:
    flat = {name.removeprefix("resource"): value for name, value in given.items() if name != "accelerator"}
    if accelerator := given.get("accelerator"):
        flat[accelerator["resourceType"]] = accelerator["resourceCount"]
    return " ".join(f"{name}={value}" for name, value in sorted(flat.items()))


def _source(edge: Spec) -> Any:
    """`task.output`, the name of the box's own input, or a constant."""
    (kind, value), *_ = edge.items()
    if kind == "runtimeValue":
        return value["constant"]
    if kind in ("taskOutputParameter", "taskOutputArtifact"):
        return f"{value['producerTask']}.{value.get('outputParameterKey') or value['outputArtifactKey']}"
    return f"status of {value['producerTask']}" if kind == "taskFinalStatus" else f"its {value}"


def described() -> str:
    """The text of the golden file, as the code stands."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lifecycle.yaml"
        compile_package("lifecycle", "pico", "gpu", path)
        spec = next(yaml.safe_load_all(path.read_text()))
    return HEAD + yaml.safe_dump(shape(spec), sort_keys=False, width=120)


if __name__ == "__main__":
    GOLDEN.write_text(described())
