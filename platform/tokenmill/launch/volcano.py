"""What torchx' Volcano job lacks: credentials by reference, a GPU pool's toleration, time for the last checkpoint."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenmill.training.settings import ClusterConfig

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "access-key", "AWS_SECRET_ACCESS_KEY": "secret-key"}
"""Environment → key of the Secret, as the profiles of KFP's tasks have them."""


def complete(job: dict[str, Any], cluster: "ClusterConfig", grace_s: int) -> None:
    """Fill in every task's pod, in place.

    Args:
        job: the VolcanoJob that torchx' Kubernetes scheduler made, with pods as the Kubernetes client has them.
        grace_s: seconds that a pod has, once told to stop.
    """
    from kubernetes.client.models import V1EnvVar, V1EnvVarSource, V1SecretKeySelector, V1Toleration

    for task in job["spec"]["tasks"]:
        pod, labels = task["template"].spec, task["template"].metadata.labels
        labels["tokenmill.io/metrics"] = "true"  # the chart's PodMonitor selects by it
        pod.termination_grace_period_seconds = grace_s
        if cluster.gpus:
            pod.tolerations = [V1Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")]
        for container in pod.containers:
            container.env += [
                V1EnvVar(
                    name=name,
                    value_from=V1EnvVarSource(secret_key_ref=V1SecretKeySelector(name=cluster.keys_from, key=key)),
                )
                for name, key in CREDENTIALS.items()
            ]
