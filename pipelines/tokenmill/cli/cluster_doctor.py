"""What `tokenmill doctor --cluster` looks at: what the charts and compiled pipelines need of a cluster.

An operator counts as there when the API server serves the version of its resources that we write; its image's tag is told
where Deployments may be listed. Nothing is changed, and of Secrets only the names of their keys are looked at.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tokenmill.cli.doctor import Finding
from tokenmill.errors import ConfigError

OLDEST = (1, 29)
"""Kubernetes that the charts are checked against, from here on."""
TIMEOUT_S = 10
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
        ConfigError: there is no cluster to ask, or it does not answer.
    """
    cluster = Cluster(namespace, context)
    tags = cluster.image_tags()
    return [
        cluster.version(),
        *(cluster.operator(operator, tags) for operator in OPERATORS),
        cluster.gpus(),
        cluster.storage_class(),
        *(cluster.wiring(*one) for one in WIRING),
        cluster.rights(),
    ]


class Cluster:
    """An API server, as the kubeconfig's context or the pod's own account reaches it."""

    def __init__(self, namespace: str | None, context: str | None) -> None:
        from kubernetes import client, config
        from kubernetes.config.config_exception import ConfigException

        settings = client.Configuration()
        settings.retries = False
        file = os.environ.get("KUBECONFIG")  # the client itself looks once, when it is imported
        try:
            config.load_kube_config(file, context, settings)
            contexts, active = config.list_kube_config_contexts(file)
            chosen = next((one for one in contexts if one["name"] == context), active)
            own = chosen["context"].get("namespace")
        except ConfigException as absent:
            try:
                config.load_incluster_config(client_configuration=settings)
            except ConfigException:
                raise ConfigError(
                    f"no cluster to ask: {str(absent).rstrip('.')}. Set KUBECONFIG or --context"
                ) from None
            own = None
        self.client, self.api = client, client.ApiClient(settings)
        self.host, self.namespace = settings.host, namespace or own or "default"

    def version(self) -> Finding:
        told = self._ask(self.client.VersionApi(self.api).get_code)
        number = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in (told.major, told.minor))
        fix = f"the charts are checked against {OLDEST[0]}.{OLDEST[1]} and later"
        return Finding("Kubernetes", number >= OLDEST, f"{told.git_version} at {self.host}", fix)

    def operator(self, operator: Operator, tags: dict[str, str] | None) -> Finding:
        crds = self.client.ApiextensionsV1Api(self.api)
        lacking = []
        for name, wanted in operator.serves.items():
            found = self._look(crds.read_custom_resource_definition, name)
            if isinstance(found, str):
                return Finding(operator.name, False, f"{name}: {found}", operator.fix, operator.required)
            served = [version.name for version in found.spec.versions if version.served]
            if wanted not in served:
                lacking.append(f"{name} is served as {', '.join(served)}, not {wanted}")
        what = "; ".join(lacking) or ", ".join(f"{name} {version}" for name, version in operator.serves.items())
        if tags and operator.image and (tag := tags.get(operator.image)):
            what = f"{tag}: {what}"
        return Finding(operator.name, not lacking, what, operator.fix, operator.required)

    def image_tags(self) -> dict[str, str] | None:
        """Last part of an image's repository → tag, of all Deployments; None where they may not be listed."""
        apps = self.client.AppsV1Api(self.api)
        found = self._look(apps.list_deployment_for_all_namespaces)
        if isinstance(found, str):
            return None
        images = [c.image for deployment in found.items for c in deployment.spec.template.spec.containers]
        names = (image.partition("@")[0].rpartition("/")[2].partition(":") for image in images)
        return {name: tag for name, _, tag in names if tag}

    def gpus(self) -> Finding:
        nodes = self._look(self.client.CoreV1Api(self.api).list_node)
        if isinstance(nodes, str):
            return Finding("GPUs", False, f"nodes: {nodes}", "ask who may list nodes", required=False)
        held = [int((node.status.allocatable or {}).get("nvidia.com/gpu", 0)) for node in nodes.items]
        what = f"{sum(held)} of nvidia.com/gpu on {sum(map(bool, held))} of {len(held)} nodes"
        return Finding("GPUs", sum(held) > 0, what, "without them the profile `cpu` alone runs", required=False)

    def storage_class(self) -> Finding:
        storage = self.client.StorageV1Api(self.api)
        found = self._look(storage.list_storage_class)
        name, fix = "default StorageClass", "name one in persistence.storageClass, or set persistence.enabled=false"
        if isinstance(found, str):
            return Finding(name, False, found, fix, required=False)
        default = [
            one.metadata.name for one in found.items if (one.metadata.annotations or {}).get(DEFAULT_CLASS) == "true"
        ]
        others = ", ".join(one.metadata.name for one in found.items) or "no class at all"
        return Finding(
            name, bool(default), ", ".join(default) or f"none is the default ({others})", fix, required=False
        )

    def wiring(self, kind: str, name: str, keys: tuple[str, ...]) -> Finding:
        core = self.client.CoreV1Api(self.api)
        read = core.read_namespaced_config_map if kind == "ConfigMap" else core.read_namespaced_secret
        found = self._look(read, name, self.namespace)
        title, fix = f"{kind} {name}", f"helm install tokenmill helm/tokenmill -n {self.namespace}"
        if isinstance(found, str):
            return Finding(title, False, f"{found} in {self.namespace}", fix)
        if lacking := sorted(set(keys) - set(found.data or {})):
            return Finding(title, False, f"lacks {', '.join(lacking)} in {self.namespace}", fix)
        return Finding(title, True, f"{', '.join(keys)} in {self.namespace}")

    def rights(self) -> Finding:
        lacking = [f"{verb} {resource}" for verb, resource in self._lacking()]
        what = f"lacks {', '.join(lacking)}" if lacking else "may make what both charts make"
        fix = f"an account that may, in {self.namespace}; serviceAccounts.deployment.create makes one"
        return Finding("permissions", not lacking, what, fix)

    def _lacking(self) -> Iterator[tuple[str, str]]:
        """Verb and resource that the account does not have; the API server judges itself."""
        authorization = self.client.AuthorizationV1Api(self.api)
        for group, resources in RIGHTS:
            for resource in resources:
                for verb in ("create", "patch", "delete"):
                    asked = {"namespace": self.namespace, "group": group, "resource": resource, "verb": verb}
                    review = self.client.V1SelfSubjectAccessReview(spec={"resourceAttributes": asked})
                    told = self._ask(authorization.create_self_subject_access_review, review)
                    if not told.status.allowed:
                        yield verb, resource

    def _look(self, ask: Callable[..., Any], *arguments: str) -> Any:
        """What is found, or why not, in words."""
        from kubernetes.client.exceptions import ApiException

        try:
            return self._call(ask, *arguments)
        except ApiException as refused:
            words = {404: "not there", 403: "may not be looked at"}
            return words.get(refused.status, f"{refused.status} {refused.reason}")

    def _ask(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """What every API server tells everybody."""
        from kubernetes.client.exceptions import ApiException

        try:
            return self._call(ask, *arguments)
        except ApiException as refused:
            why = "does not know these credentials" if refused.status == 401 else f"answers {refused.reason}"
            raise ConfigError(f"the cluster at {self.host} {why} ({refused.status})") from None

    def _call(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        from urllib3.exceptions import HTTPError

        try:
            return ask(*arguments, _request_timeout=TIMEOUT_S)
        except HTTPError as away:
            raise ConfigError(f"the cluster at {self.host} does not answer: {type(away).__name__}") from None
