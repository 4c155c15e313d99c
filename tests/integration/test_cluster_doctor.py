"""`tokenmill doctor --cluster`, by the real Kubernetes client, over HTTP.

No API server can be had here: what answers is a small server that speaks the API's JSON, of objects written after a cluster's.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest
import yaml
from servers import free_ports

from tokenmill.cli import main
from tokenmill.cli.cluster_doctor import OPERATORS, RIGHTS

pytestmark = pytest.mark.integration
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
SECRET = "/api/v1/namespaces/llm/secrets/tokenmill-store"
CONFIG = "/api/v1/namespaces/llm/configmaps/tokenmill"


def crd(name, *versions):
    plural, _, group = name.partition(".")
    served = [{"name": v, "served": True, "storage": n == 0, "schema": {}} for n, v in enumerate(versions)]
    names = {"plural": plural, "kind": plural.title()}
    return {
        "metadata": {"name": name},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": served},
    }


def deployment(image):
    pod = {"containers": [{"name": "manager", "image": image}]}
    return {"metadata": {"name": "x"}, "spec": {"selector": {}, "template": {"metadata": {}, "spec": pod}}}


def whole_cluster():
    """Path → answer, of a cluster that has everything."""
    images = ("ghcr.io/kubeflow/kfp-api-server:2.5.0", "nvcr.io/nvidia/gpu-operator:v25.3.0@sha256:" + "0" * 64)
    classes = [{"metadata": {"name": "slow"}, "provisioner": "p"}]
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    classes.append({"metadata": {"name": "fast", "annotations": default}, "provisioner": "p"})
    nodes = [
        {"status": {"allocatable": {"cpu": "64", "nvidia.com/gpu": "8"}}},
        {"status": {"allocatable": {"cpu": "8"}}},
    ]
    keys = {"store": "s3://llm", "s3-endpoint": "http://s3", "mlflow": "http://mlflow:5000"}
    return {
        "/version": {"major": "1", "minor": "36+", "gitVersion": "v1.36.1", **dict.fromkeys(
            ("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "platform"), "x")},
        "/apis/apps/v1/deployments": {"items": [deployment(image) for image in images]},
        "/apis/storage.k8s.io/v1/storageclasses": {"items": classes},
        "/api/v1/nodes": {"items": nodes},
        CONFIG: {"data": keys},
        SECRET: {"data": {"access-key": "cGxhbnRlZA==", "secret-key": "cGxhbnRlZA=="}},
        **{CRDS + name: crd(name, version) for operator in OPERATORS for name, version in operator.serves.items()},
    }  # fmt: skip


class Api:
    """The server, its answers, and what may not be done (`verb resource`)."""

    def __init__(self):
        self.answers, self.forbidden, self.asked = whole_cluster(), set(), []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self, found):
                status = found if isinstance(found, int) else 200
                body = {"kind": "Status", "code": status, "message": "no"} if isinstance(found, int) else found
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                api.asked.append(self.path)
                self._answer(api.answers.get(self.path.partition("?")[0].rstrip("/"), 404))

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["spec"]["resourceAttributes"]
                assert self.path == REVIEWS and asked["namespace"] in ("llm", "team-b")
                allowed = f"{asked['verb']} {asked['resource']}" not in api.forbidden
                self._answer({"spec": {"resourceAttributes": asked}, "status": {"allowed": allowed}})

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def kubeconfig(path, port):
    here = {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "llm"}}
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [here],
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )
    )
    return path


@pytest.fixture
def api(tmp_path, monkeypatch):
    made = Api()
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config", made.server.server_port)))
    yield made
    made.server.shutdown()
    made.server.server_close()


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def doctor(api, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["tokenmill", "doctor", "--cluster", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Said(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def findings(doctor):
    def run():
        done = doctor("--json")
        return {one["name"]: one for one in json.loads(done.out)}, done.code

    return run


def test_a_cluster_that_has_everything_is_fine(doctor, findings):
    found, code = findings()
    assert code == 0 and all(one["ok"] for one in found.values()), found
    assert found["Kubernetes"]["what"].startswith("v1.36.1 at http://127.0.0.1:")
    assert found["Kubeflow Pipelines"]["what"] == "2.5.0: workflows.argoproj.io v1alpha1"
    assert found["NVIDIA GPU operator"]["what"].startswith("v25.3.0: ")
    assert found["GPUs"]["what"] == "8 of nvidia.com/gpu on 1 of 2 nodes"
    assert found["default StorageClass"]["what"] == "fast"
    assert "cGxhbnRlZA" not in doctor().out, "of Secrets only the names of keys are told"


def test_what_is_not_there_is_named_with_what_it_is_for(api, findings):
    for path in [p for p in api.answers if p.startswith(CRDS)]:
        api.answers[path] = 404
    api.answers[CONFIG] = {"data": {"store": "s3://llm"}}
    api.answers[SECRET] = 404
    api.answers["/apis/storage.k8s.io/v1/storageclasses"] = {"items": []}
    found, code = findings()
    assert code == 2
    assert {o.name for o in OPERATORS} <= {name for name, one in found.items() if not one["ok"]}
    assert found["Kubeflow Pipelines"]["required"] and not found["Kueue"]["required"]
    assert found["ConfigMap tokenmill"]["what"] == "lacks mlflow, s3-endpoint in llm"
    assert found["Secret tokenmill-store"]["what"] == "not there in llm"
    assert found["default StorageClass"]["what"] == "none is the default (no class at all)"


def test_what_only_others_need_is_absent_and_no_failure(api, doctor):
    api.answers[CRDS + "clusterqueues.kueue.x-k8s.io"] = 404
    done = doctor()
    assert done.code == 0
    (line,) = [line for line in done.out.splitlines() if "Kueue" in line]
    assert line.startswith("absent ") and "not there" in line


def test_a_version_that_is_not_served_is_not_there(api, findings):
    name = "localqueues.kueue.x-k8s.io"
    api.answers[CRDS + name] = crd(name, "v1beta2")
    assert findings()[0]["Kueue"]["what"] == f"{name} is served as v1beta2, not v1beta1"
    api.answers["/version"]["minor"] = "28"
    found, code = findings()
    assert code == 2 and not found["Kubernetes"]["ok"]


def test_rights_are_judged_by_the_api_server(api, findings):
    api.forbidden = {"create secrets", "delete jobs"}
    found, code = findings()
    assert code == 2 and found["permissions"]["what"] == "lacks create secrets, delete jobs"
    assert all(resource in str(RIGHTS) for resource in ("secrets", "jobs"))


def test_who_may_look_at_little_is_told_so(api, findings):
    for path in ("/apis/apps/v1/deployments", "/api/v1/nodes", SECRET, CRDS + "clusterpolicies.nvidia.com"):
        api.answers[path] = 403
    found, _ = findings()
    assert found["Kubeflow Pipelines"]["ok"] and found["Kubeflow Pipelines"]["what"].startswith("workflows")
    assert found["NVIDIA GPU operator"]["what"] == "clusterpolicies.nvidia.com: may not be looked at"
    assert found["GPUs"]["what"] == "nodes: may not be looked at"
    assert found["Secret tokenmill-store"]["what"] == "may not be looked at in llm"


def test_the_namespace_is_the_contexts_or_what_is_asked_for(api, doctor):
    assert doctor().code == 0
    assert CONFIG in api.asked
    api.asked.clear()
    doctor("-n", "team-b")
    assert "/api/v1/namespaces/team-b/configmaps/tokenmill" in api.asked


@pytest.mark.parametrize("case", ["no kubeconfig", "nobody answers", "no context", "who are you"])
def test_without_a_cluster_it_is_one_line(case, api, doctor, tmp_path, monkeypatch):
    arguments, told = [], ""
    if case == "no kubeconfig":
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
        told = "no cluster: "
    elif case == "nobody answers":
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "other", free_ports(1)[0])))
        told = "does not answer"
    elif case == "no context":
        arguments, told = ["--context", "prod"], "no cluster: "
    else:
        api.answers["/version"] = 401
        told = "refused GET /version: 401"
    done = doctor(*arguments)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert told in line and line.startswith("tokenmill: ") and not done.out
