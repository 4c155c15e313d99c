"""Who is sent where: the weights of an HTTPRoute, or the track that a Service selects.

Helm 4 applies on the server and meets a conflict where another field manager has changed a field. So the whole object is
applied under Helm's own name (its binary's): the next upgrade finds what Helm itself would have left there.
"""

import copy
import os
from pathlib import Path
from typing import Any

import requests

from tokenmill.errors import UserError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PATHS = {
    "HTTPRoute": "/apis/gateway.networking.k8s.io/v1/namespaces/{}/httproutes/{}",
    "Service": "/api/v1/namespaces/{}/services/{}",
}
TRACK = "tokenmill.io/track"
OWN_FIELDS = ("name", "namespace", "labels", "annotations")


class KubernetesApi:
    """Two verbs of the API server: all that the canary's role allows."""

    def __init__(self, url: str, token: str, ca: str | bool):
        self.url = url
        self._http = requests.Session()
        self._http.headers["Authorization"] = f"Bearer {token}"
        self._http.verify = ca

    @classmethod
    def of_this_pod(cls) -> "KubernetesApi":
        """As the pod's own service account."""
        if not (ACCOUNT / "token").is_file():
            raise UserError("this pod has no service account token: run it as the chart's canary Job does")
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        host = f"[{host}]" if ":" in host else host
        return cls(f"https://{host}:{port}", (ACCOUNT / "token").read_text(), str(ACCOUNT / "ca.crt"))

    def get(self, path: str) -> dict[str, Any]:
        return self._answer(self._http.get(f"{self.url}{path}", timeout=30))

    def apply(self, path: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """Server-side apply as Helm."""
        headers = {"Content-Type": "application/apply-patch+yaml"}
        query = {"fieldManager": "helm", "force": "true"}
        return self._answer(
            self._http.patch(f"{self.url}{path}", json=wanted, params=query, headers=headers, timeout=30)
        )

    def _answer(self, response: requests.Response) -> dict[str, Any]:
        if not response.ok:
            raise UserError(f"the API server refused {response.request.method} {response.url}: {response.text[:300]}")
        return dict(response.json())


class Switch:
    """Sends a share of the users to the candidate."""

    def __init__(self, api: KubernetesApi, kind: str, namespace: str, name: str, candidate_service: str):
        self.api, self.kind, self.candidate_service = api, kind, candidate_service
        self.path = PATHS[kind].format(namespace, name)

    def candidate_gets(self, percent: int) -> None:
        """Percent of users at the candidate. A Service knows none or all: it moves at 100."""
        found = self.api.get(self.path)
        wanted = {key: found[key] for key in ("apiVersion", "kind")}
        wanted["metadata"] = {key: found["metadata"][key] for key in OWN_FIELDS if key in found["metadata"]}
        spec = wanted["spec"] = copy.deepcopy(found["spec"])
        if self.kind == "Service":
            spec["selector"][TRACK] = "candidate" if percent == 100 else "stable"
        else:
            self._weigh(spec, percent)
        if spec == found["spec"]:
            return
        if self.kind == "Service":  # without what the API server allocated: it is not Helm's to own
            wanted["spec"] = {key: spec[key] for key in ("type", "selector") if key in spec}
            wanted["spec"]["ports"] = [{k: v for k, v in port.items() if k != "nodePort"} for port in spec["ports"]]
        self.api.apply(self.path, wanted)

    def _weigh(self, spec: dict[str, Any], percent: int) -> None:
        backends = [backend for rule in spec["rules"] for backend in rule.get("backendRefs", [])]
        if not any(backend["name"] == self.candidate_service for backend in backends):
            raise UserError(f"{self.path} sends nobody to {self.candidate_service}: is the canary enabled?")
        for backend in backends:
            backend["weight"] = percent if backend["name"] == self.candidate_service else 100 - percent
