"""What a security review asks of every pod that the charts make, in every mode."""

import re

import pytest
from rendered import every_mode, render

RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
HOST_PATH = {("inference", "gpu")}  # asks for the node's cache by name; its values say what that costs
IMAGE_VOLUME = {("inference", "oci")}
HELMS_SECRETS = {"tokenmill-deployment"}  # Helm makes up the names of the Secrets that it keeps releases in
TALKS_TO_THE_API_SERVER = {"Job/rel-inference-canary"}


def containers(pod):
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


@every_mode
def test_pods_are_what_pod_security_restricted_wants(chart, mode):
    for name, pod in render(chart, mode).pods():
        spec, of_pod = pod["spec"], pod["spec"]["securityContext"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & {key for key in spec if spec[key]}, name
        assert of_pod["runAsNonRoot"] is True and of_pod["runAsUser"] > 0, name
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        allowed = RESTRICTED_VOLUMES | ({"hostPath"} if (chart, mode) in HOST_PATH else set())
        allowed |= {"image"} if (chart, mode) in IMAGE_VOLUME else set()
        assert {key for volume in spec.get("volumes", []) for key in volume if key != "name"} <= allowed, name
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert not context.get("privileged"), name


@every_mode
def test_nothing_writes_where_no_volume_is(chart, mode):
    for name, pod in render(chart, mode).pods():
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", [])}
            assert "/tmp" in mounts, name
            kinds = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
            for path, mount in mounts.items():
                volume = kinds.get(mount["name"], {})  # or a claim of a StatefulSet
                if (
                    "configMap" in volume
                    or "secret" in volume
                    or ("hostPath" in volume and container["name"] == "engine")
                ):
                    assert mount.get("readOnly"), f"{name} {path}"


@every_mode
def test_only_who_talks_to_the_api_server_has_a_token(chart, mode):
    rendered = render(chart, mode)
    for name, pod in rendered.pods():
        assert pod["spec"]["automountServiceAccountToken"] is (name in TALKS_TO_THE_API_SERVER), name
        assert pod["spec"]["enableServiceLinks"] is False, name
    for account in rendered.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


@every_mode
def test_roles_name_what_they_may_touch(chart, mode):
    rendered = render(chart, mode)
    assert rendered.of("ClusterRole") == rendered.of("ClusterRoleBinding") == []
    for role in rendered.of("Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], role["metadata"]["name"]
            named = rule.get("resourceNames") or role["metadata"]["name"] in HELMS_SECRETS
            assert "secrets" not in rule["resources"] or named, role["metadata"]["name"]


@every_mode
def test_images_are_pinned_by_version_or_digest(chart, mode):
    for name, pod in render(chart, mode).pods():
        for container in containers(pod):
            assert re.fullmatch(r"[\w./:-]+(:v?[\w.-]*\d[\w.-]*|@sha256:[0-9a-f]{64})", container["image"]), name
            assert not container["image"].endswith(":latest"), name
            assert container["imagePullPolicy"] in ("IfNotPresent", "Always", "Never")


@every_mode
def test_every_container_says_what_it_needs(chart, mode):
    for name, pod in render(chart, mode).pods():
        for container in containers(pod):
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name


def selects(selector, labels):
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []) if e["operator"] == "In"
    )


@every_mode
def test_every_pod_is_denied_what_no_policy_allows(chart, mode):
    rendered = render(chart, mode)
    policies = rendered.of("NetworkPolicy")
    for name, pod in rendered.pods():
        mine = [p["spec"] for p in policies if selects(p["spec"]["podSelector"], pod["metadata"]["labels"])]
        assert any(p["policyTypes"] == ["Ingress", "Egress"] and not {"ingress", "egress"} & p.keys() for p in mine), (
            name
        )
        for rule in (rule for p in mine for rule in p.get("ingress") or []):
            assert rule["from"] and rule["ports"], name  # never everybody, never every port
        for rule in (rule for p in mine for rule in p.get("egress") or []):
            assert rule["ports"], name


@every_mode
def test_labels_are_the_recommended_ones_and_selectors_are_stable(chart, mode):
    for o in render(chart, mode).objects:
        if o["metadata"]["name"].endswith("-more"):
            continue  # the user's own
        labels = o["metadata"]["labels"]
        for key in ("name", "instance", "version", "component", "part-of", "managed-by"):
            assert labels[f"app.kubernetes.io/{key}"], o["metadata"]["name"]
        assert labels["helm.sh/chart"] == f"{chart}-0.1.0"
        if o["kind"] in ("Deployment", "StatefulSet"):
            selector = o["spec"]["selector"]["matchLabels"]
            assert selector.items() <= o["spec"]["template"]["metadata"]["labels"].items()
            assert (
                not {"app.kubernetes.io/version", "helm.sh/chart"} & o["spec"]["template"]["metadata"]["labels"].keys()
            )


@every_mode
def test_hooks_leave_nothing_behind(chart, mode):
    for o in render(chart, mode).objects:
        annotations = o["metadata"].get("annotations") or {}
        if "helm.sh/hook" in annotations:
            assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
            assert o["kind"] != "Job" or o["spec"]["ttlSecondsAfterFinished"] <= 3600
        else:
            assert "helm.sh/resource-policy" not in annotations


@pytest.mark.parametrize(("mode", "guarded"), [("cpu", True), ("hpa", True), ("hub", False)])
def test_the_api_key_comes_from_a_secret_and_never_in_the_arguments(mode, guarded):
    rendered = render("inference", mode)
    engine = rendered.one("Deployment", "rel-inference")["spec"]["template"]["spec"]["containers"][0]
    keys = [e for e in engine["env"] if e["name"] == "VLLM_API_KEY"]
    assert [set(e) for e in keys] == [{"name", "valueFrom"}] * guarded
    assert not any("api-key" in argument for argument in engine["args"])
    if mode == "cpu":
        key = rendered.one("Secret")["data"]["api-key"]
        assert len(key) > 40 and key not in str([o for o in rendered.objects if o["kind"] != "Secret"])
    if mode == "hpa":
        assert rendered.of("Secret") == []


def test_no_development_endpoint_and_no_foreign_code():
    for mode in ("cpu", "gpu", "pvc", "keda"):
        engine = render("inference", mode).one("Deployment", "rel-inference")["spec"]["template"]["spec"]["containers"][
            0
        ]
        assert not any(e["name"] == "VLLM_SERVER_DEV_MODE" for e in engine["env"])
        assert "--trust-remote-code" not in engine["args"]


def test_the_route_leads_to_v1_only():
    route = render("inference", "route-canary").one("HTTPRoute")["spec"]["rules"][0]
    assert [match["path"] for match in route["matches"]] == [{"type": "PathPrefix", "value": "/v1"}]


def test_a_model_from_the_image_needs_no_way_out():
    policy = render("inference", "image").one("NetworkPolicy", "rel-inference-engine")
    assert policy["spec"]["egress"] == []
