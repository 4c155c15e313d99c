"""What `tokenmill doctor --cluster` looks at: what the charts and compiled pipelines need of a cluster.

An operator counts as there when the API server serves the version of its resources that we write; its image's tag is told
where Deployments may be listed. Nothing is changed, and of Secrets only the names of their keys are looked at.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tokenmill.cli.doctor import Finding
from tokenmill.cluster import Cluster, Forbidden

OLDEST = (1, 29)
"""Kubernetes that the charts are checked against, from here on."""
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


class Operator(NamedTuple):
    """A prerequisite that comes with custom resources."""

    name: str
    serves: dict[str, str]
    """CustomResourceDefinition → version of it that we write."""
    image: str
    """What its controller's image repository ends with."""
    fix: str
    required: bool = False


OPERATORS = (
    Operator(
        "Kubeflow Pipelines",
        {"workflows.argoproj.io": "v1alpha1"},
        "kfp-api-server",
        "install Kubeflow Pipelines 2: it runs the compiled pipelines",
        required=True,
    ),
    Operator(
        "NVIDIA GPU operator",
        {"clusterpolicies.nvidia.com": "v1"},
        "gpu-operator",
        "for GPUs; or a device plugin alone",
    ),
    Operator(
        "Prometheus operator",
        {f"{kind}.monitoring.coreos.com": "v1" for kind in ("podmonitors", "servicemonitors", "prometheusrules")},
        "prometheus-operator",
        "for monitoring, serviceMonitor and prometheusRule",
    ),
    Operator(
        "Volcano",
        {"jobs.batch.volcano.sh": "v1alpha1", "queues.scheduling.volcano.sh": "v1beta1"},
        "vc-controller-manager",
        "for trainings on several nodes: execution.scheduler=kubernetes",
    ),
    Operator(
        "Kubeflow Trainer",
        {"trainjobs.trainer.kubeflow.org": "v1alpha1"},
        "trainer-controller-manager",
        "for TrainJobs",
    ),
    Operator(
        "Kueue",
        {f"{kind}.kueue.x-k8s.io": "v1beta1" for kind in ("clusterqueues", "localqueues", "resourceflavors")},
        "kueue",
        "for kueue.enabled",
    ),
    Operator("KEDA", {"scaledobjects.keda.sh": "v1alpha1"}, "keda", "for autoscaling.mode=keda"),
    Operator("Gateway API", {"httproutes.gateway.networking.k8s.io": "v1"}, "", "for httpRoute and a canary's weights"),
)
RIGHTS = (
    ("", ("configmaps", "secrets", "services", "serviceaccounts", "persistentvolumeclaims")),
    ("apps", ("deployments", "statefulsets")),
    ("batch", ("jobs",)),
    ("networking.k8s.io", ("networkpolicies",)),
    ("rbac.authorization.k8s.io", ("roles", "rolebindings")),
)
"""What `helm install` of both charts makes."""
WIRING = (
    ("ConfigMap", "tokenmill", ("store", "s3-endpoint", "mlflow")),
    ("Secret", "tokenmill-store", ("access-key", "secret-key")),
)
"""What compiled pipelines refer to. The chart's `pushgateway` and `metrics-port` may be missing."""


def examine_cluster(namespace: str | None = None, context: str | None = None) -> list[Finding]:
    """Every finding, the most needed first.

    Raises:
        ClusterError: there is no cluster to ask, or it does not answer.
    """
    cluster = Cluster(context)
    namespace = namespace or cluster.namespace
    version, tags = _version(cluster), _image_tags(cluster)
    return [
        version,
        *(_operator(cluster, operator, tags) for operator in OPERATORS),
        _gpus(cluster),
        _storage_class(cluster),
        *(_wiring(cluster, namespace, *one) for one in WIRING),
        _rights(cluster, namespace),
    ]


def _version(cluster: Cluster) -> Finding:
    told = cluster.get("/version") or {"major": "", "minor": "", "gitVersion": "it does not say"}
    number = tuple(int("".join(filter(str.isdigit, told[part])) or 0) for part in ("major", "minor"))
    fix = f"the charts are checked against {OLDEST[0]}.{OLDEST[1]} and later"
    return Finding("Kubernetes", number >= OLDEST, f"{told['gitVersion']} at {cluster.address}", fix)


def _operator(cluster: Cluster, operator: Operator, tags: dict[str, str]) -> Finding:
    lacking = []
    for name, wanted in operator.serves.items():
        found = _look(cluster, f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        if isinstance(found, str):
            return Finding(operator.name, False, f"{name}: {found}", operator.fix, operator.required)
        served = [version["name"] for version in found["spec"]["versions"] if version["served"]]
        if wanted not in served:
            lacking.append(f"{name} is served as {', '.join(served)}, not {wanted}")
    what = "; ".join(lacking) or ", ".join(f"{name} {version}" for name, version in operator.serves.items())
    if operator.image and (tag := tags.get(operator.image)):
        what = f"{tag}: {what}"
    return Finding(operator.name, not lacking, what, operator.fix, operator.required)


def _image_tags(cluster: Cluster) -> dict[str, str]:
    """Last part of an image's repository → tag, of all Deployments; empty where they may not be listed."""
    found = _look(cluster, "/apis/apps/v1/deployments")
    items = [] if isinstance(found, str) else found["items"]
    images = [c["image"] for deployment in items for c in deployment["spec"]["template"]["spec"]["containers"]]
    names = (image.partition("@")[0].rpartition("/")[2].partition(":") for image in images)
    return {name: tag for name, _, tag in names if tag}


def _gpus(cluster: Cluster) -> Finding:
    nodes = _look(cluster, "/api/v1/nodes")
    if isinstance(nodes, str):
        return Finding("GPUs", False, f"nodes: {nodes}", "ask who may list nodes", required=False)
    held = [int(node["status"].get("allocatable", {}).get("nvidia.com/gpu", 0)) for node in nodes["items"]]
    what = f"{sum(held)} of nvidia.com/gpu on {sum(map(bool, held))} of {len(held)} nodes"
    return Finding("GPUs", sum(held) > 0, what, "without them the profile `cpu` alone runs", required=False)


def _storage_class(cluster: Cluster) -> Finding:
    found = _look(cluster, "/apis/storage.k8s.io/v1/storageclasses")
    name, fix = "default StorageClass", "name one in persistence.storageClass, or set persistence.enabled=false"
    if isinstance(found, str):
        return Finding(name, False, found, fix, required=False)
    classes = [one["metadata"] for one in found["items"]]
    default = [one["name"] for one in classes if one.get("annotations", {}).get(DEFAULT_CLASS) == "true"]
    others = ", ".join(one["name"] for one in classes) or "no class at all"
    what = ", ".join(default) or f"none is the default ({others})"
    return Finding(name, bool(default), what, fix, required=False)


def _wiring(cluster: Cluster, namespace: str, kind: str, name: str, keys: tuple[str, ...]) -> Finding:
    found = _look(cluster, f"/api/v1/namespaces/{namespace}/{kind.lower()}s/{name}")
    title, fix = f"{kind} {name}", f"helm install tokenmill helm/tokenmill -n {namespace}"
    if isinstance(found, str):
        return Finding(title, False, f"{found} in {namespace}", fix)
    if lacking := sorted(set(keys) - set(found.get("data") or {})):
        return Finding(title, False, f"lacks {', '.join(lacking)} in {namespace}", fix)
    return Finding(title, True, f"{', '.join(keys)} in {namespace}")


def _rights(cluster: Cluster, namespace: str) -> Finding:
    lacking = [f"{verb} {resource}" for verb, resource in _lacking(cluster, namespace)]
    what = f"lacks {', '.join(lacking)}" if lacking else "may make what both charts make"
    fix = f"an account that may, in {namespace}; serviceAccounts.deployment.create makes one"
    return Finding("permissions", not lacking, what, fix)


def _lacking(cluster: Cluster, namespace: str) -> Iterator[tuple[str, str]]:
    """Verb and resource that the account does not have; the API server judges itself."""
    for group, resources in RIGHTS:
        for resource in resources:
            for verb in ("create", "patch", "delete"):
                if not cluster.may(verb, resource, group=group, namespace=namespace):
                    yield verb, resource


def _look(cluster: Cluster, path: str) -> Any:
    """What is found, or why not, in words."""
    try:
        return cluster.get(path) or "not there"
    except Forbidden:
        return "may not be looked at"
