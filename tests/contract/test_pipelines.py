"""The compiled shape of the lifecycle: its boxes and parameters, resources by profile, KFP's cache off everywhere."""

import re

import pytest
import yaml

from tokenmill.config import step_budgets
from tokenmill.pipelines.package import compile_package


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "lifecycle.yaml"
    compile_package("lifecycle", "pico", "gpu", path, "registry.example/mill")
    return list(yaml.safe_load_all(path.read_text()))


def dags(spec):
    return [c["dag"] for c in (spec["root"], *spec["components"].values()) if "dag" in c]


def test_parameters_and_phases_are_what_a_person_sees(package):
    spec = package[0]
    assert set(spec["root"]["inputDefinitions"]["parameters"]) == {
        "sources",
        "overrides",
        "rounds",
        "release_alias",
        "deploy",
    }
    tasks = {task for dag in dags(spec) for task in dag["tasks"]}
    assert {"curation", "pretraining", "enhancement", "sft", "alignment", "evaluation", "deployment"} <= tasks


def test_kfp_caching_is_off_on_every_task(package):
    cached = [n for dag in dags(package[0]) for n, t in dag["tasks"].items() if t.get("cachingOptions")]
    assert cached == []


def test_trainers_get_accelerators_shared_memory_and_secrets_and_images_a_registry(package):
    executors = package[0]["deploymentSpec"]["executors"]
    assert all(e["container"]["image"].startswith("registry.example/mill/tokenmill/") for e in executors.values())
    accelerator = executors["exec-train-short"]["container"]["resources"]["accelerator"]
    assert accelerator == {"resourceType": "nvidia.com/gpu", "resourceCount": "8"}
    kubernetes = package[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert kubernetes["exec-train-short"]["emptyDirMounts"][0]["mountPath"] == "/dev/shm"
    assert kubernetes["exec-train-short"]["tolerations"]
    assert all(e["secretAsEnv"][0]["secretName"] == "tokenmill-store" for e in kubernetes.values())


def test_every_step_of_the_lifecycle_has_a_budget_and_every_budget_a_step(package):
    executors = package[0]["deploymentSpec"]["executors"].values()
    bodies = "\n".join(part for e in executors for part in e["container"]["command"])
    called = set(re.findall(r'run_component\(\s*"([\w.]+)"', bodies))
    assert len(called) > 20
    assert set(step_budgets("nano")) == called
    assert all(seconds > 0 for seconds in step_budgets("nano").values())
