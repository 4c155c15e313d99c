"""A Kubernetes API server, asked by path: whatever the cluster serves is there, without a class for each kind.

From a pod as its service account, from a shell by kubeconfig, as `kubectl` and `helm` are. `kubernetes` is imported when a
cluster is opened (a second), never before.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenmill.errors import CredentialsError, UserError

TIMEOUT_S = 30
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class ClusterError(UserError):
    """The API server cannot be reached, or refuses."""


class Forbidden(CredentialsError, ClusterError):
    """The account may not do this."""


def in_pod() -> bool:
    """Whether this process runs in a pod, and reaches Services by their names."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


class Cluster:
    """The API server of the pod's own cluster, or of a kubeconfig's context.

    Attributes:
        address: its URL.
        namespace: the context's, or the pod's own.

    Raises:
        ClusterError: there is neither.
    """

    def __init__(self, context: str | None = None) -> None:
        from kubernetes import client, config

        settings = client.Configuration()
        try:
            if in_pod() and context is None:
                config.load_incluster_config(client_configuration=settings)
                self.namespace = POD_NAMESPACE.read_text().strip()
            else:
                file = os.environ.get("KUBECONFIG") or None  # the package would read it once, when it is imported
                config.load_kube_config(file, context=context, client_configuration=settings)
                contexts, active = config.list_kube_config_contexts(file)
                chosen = next((one for one in contexts if one["name"] == context), active)
                self.namespace = str(chosen["context"].get("namespace") or "default")
        except config.ConfigException as none:
            raise ClusterError(
                f"no cluster: {str(none).strip().rstrip('.')}. Set KUBECONFIG, name a context, or run in a pod"
            ) from None
        settings.retries = 1
        self.address = settings.host
        self._client = client.ApiClient(settings)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """What lies at a path; None if nothing does (404)."""
        return self._call(path, "GET", query=query)

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST of an object; what the server made of it."""
        made = self._call(path, "POST", body=body)
        if made is None:
            raise ClusterError(f"the API server at {self.address} knows no {path}")
        return made

    def may(self, verb: str, resource: str, *, group: str, namespace: str) -> bool:
        """Whether the account may; the API server judges itself (SelfSubjectAccessReview, `kubectl auth can-i`)."""
        asked = {"namespace": namespace, "group": group, "resource": resource, "verb": verb}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        told = self.create(REVIEWS, review | {"spec": {"resourceAttributes": asked}})
        return bool(told.get("status", {}).get("allowed"))

    def log(self, namespace: str, selector: str, lines: int = 40) -> str:
        """The end of what the first pod of a selector printed; empty if there is none, or if it may not be read."""
        try:
            pods = (self.get(f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": selector}) or {}).get(
                "items", []
            )
            if not pods:
                return ""
            path = f"/api/v1/namespaces/{namespace}/pods/{pods[0]['metadata']['name']}/log"
            return str(self._call(path, "GET", query={"tailLines": str(lines)}, kind="str") or "")
        except ClusterError:
            return ""

    def _call(
        self,
        path: str,
        verb: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        kind: str = "object",
    ) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return self._client.call_api(
                path,
                verb,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json, */*", "Content-Type": "application/json"},
                body=body,
                response_type=kind,
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=TIMEOUT_S,
            )
        except ApiException as refused:
            if refused.status == 404:
                return None
            said = f"the API server at {self.address} refused {verb} {path}: {refused.status} {refused.reason}"
            raise (Forbidden(said) if refused.status in (401, 403) else ClusterError(said)) from None
        except HTTPError as away:
            raise ClusterError(f"the API server at {self.address} does not answer: {away}") from None
