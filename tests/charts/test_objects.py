"""What the charts render is what Kubernetes takes, from 1.29 to 1.37, and the same under both Helms."""

import json
import re
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate.utils as kubernetes_schemas
import pytest
import referencing
import yaml
from rendered import CHARTS, HELMS, MODES, every_helm, every_mode, helm, render

KUBERNETES = ("1.29", "1.33", "1.37")
IMAGE_VOLUMES = {"oci": "1.33"}  # a mode's first Kubernetes, where it is not 1.29
CRDS = {path.stem: yaml.safe_load(path.read_text()) for path in (Path(__file__).parent / "crds").glob("*.yaml")}


@cache
def validator(version, kind, api):
    """kubernetes-validate's strict schema of one kind; it reads 2 MB of definitions for every object, this once."""
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)  # rbac.authorization.k8s.io/v1 → rbac-v1
    schema = kubernetes_schemas.schema_contents(f"{folder}/{kind.lower()}-{group}.json", version)
    resource = referencing.Resource.from_contents
    registry = resource(schema) @ (resource(definitions(version)) @ referencing.Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


@cache
def definitions(version):
    return kubernetes_schemas.schema_contents(
        f"kubernetes-json-schema/v{version}.0-local-strict/_definitions.json", version
    )


@every_helm
@every_mode
def test_lint_has_nothing_to_say(chart, mode, name):
    values = CHARTS / chart / "ci" / f"{mode}-values.yaml"
    said = helm(name, "lint", "--strict", str(CHARTS / chart), "-f", str(values), "--kube-version", "1.36.0")
    assert "0 chart(s) failed" in said


@pytest.mark.parametrize("version", KUBERNETES)
@every_mode
def test_every_object_is_one_that_this_kubernetes_knows(chart, mode, version):
    if version < IMAGE_VOLUMES.get(mode, version):
        pytest.skip(f"{mode} needs Kubernetes {IMAGE_VOLUMES[mode]}")
    for o in render(chart, mode, kube=f"{version}.0").objects:
        own = CRDS.get(o["kind"])
        schema = (
            jsonschema.Draft202012Validator(own["schema"]) if own else validator(version, o["kind"], o["apiVersion"])
        )
        if own:
            assert o["apiVersion"] == own["apiVersion"]
        wrong = [f"{'.'.join(map(str, e.absolute_path))}: {e.message}" for e in schema.iter_errors(o)]
        assert wrong == [], f"{o['kind']}/{o['metadata']['name']}"


def test_the_schemas_see_a_misspelt_field():
    service = json.loads(json.dumps(render("inference", "cpu").one("Service", "rel-inference")))
    service["spec"]["selectors"] = {}
    assert list(validator("1.37", "Service", "v1").iter_errors(service))
    route = json.loads(json.dumps(render("inference", "route-canary").one("HTTPRoute")))
    route["spec"]["rules"][0]["backendRefs"][0]["weight"] = "10"
    assert list(jsonschema.Draft202012Validator(CRDS["HTTPRoute"]["schema"]).iter_errors(route))


@every_mode
def test_both_helms_render_the_same(chart, mode):
    old, new = (render(chart, mode, name=name) for name in HELMS)

    def plain(rendered):  # a generated key differs each time
        return sorted(
            json.dumps(o | {"data": sorted(o["data"])} if o["kind"] == "Secret" else o, sort_keys=True)
            for o in rendered.objects
        )

    assert plain(old) == plain(new)


@every_mode
def test_no_object_is_there_twice_and_all_lie_in_the_namespace(chart, mode):
    objects = render(chart, mode).objects
    names = [(o["kind"], o["metadata"]["name"]) for o in objects]
    assert len(names) == len(set(names))
    assert {o["metadata"].get("namespace", "llm") for o in objects} == {"llm"}


def test_every_mode_is_there():
    modes = {chart: [mode for c, mode in MODES if c == chart] for chart, _ in MODES}
    assert {"cpu", "production", "full", "team"} <= set(modes["tokenmill"])
    assert {"cpu", "gpu", "route-canary", "service-canary", "keda", "hpa", "pvc", "image", "oci", "hub"} <= set(
        modes["inference"]
    )


@every_mode
def test_no_list_has_two_entries_of_one_key(chart, mode):
    """Server-side apply, which Helm 4 uses, refuses what client-side apply let through."""
    for name, pod in render(chart, mode).pods():
        spec = pod["spec"]
        for container in spec.get("initContainers", []) + spec["containers"]:
            for field, key in (("env", "name"), ("volumeMounts", "mountPath"), ("ports", "containerPort")):
                keys = [entry[key] for entry in container.get(field, [])]
                assert len(keys) == len(set(keys)), f"{name} {container['name']} {field}"
        for field in ("volumes", "initContainers", "containers"):
            names = [entry["name"] for entry in spec.get(field, [])]
            assert len(names) == len(set(names)), f"{name} {field}"
