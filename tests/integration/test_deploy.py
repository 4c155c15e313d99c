"""`tokenmill deploy` and its way back: the real Helm 4 and the real registry; the API server is a stand-in that says so.

Where vLLM is, the pod that Helm asks for runs as processes, fetches the release from the store, and is asked.
"""

import base64
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
import yaml
from kubernetes_api import Api, kubernetes_api
from pico import Lab, released
from pod_process import PodProcess
from rendered import HELM_FOLDER, needs_helm
from servers import free_ports
from typer.testing import CliRunner

from tokenmill.cli import deploying
from tokenmill.cluster import Cluster, Forbidden
from tokenmill.deployment.config import DeployConfig, DeployExecution, RegisterConfig
from tokenmill.deployment.helm import Helm
from tokenmill.deployment.on_cluster import Release, Wanted
from tokenmill.deployment.preflight import Unfit
from tokenmill.errors import InputError
from tokenmill.logs import Log
from tokenmill.serving import serving_available
from tokenmill.tracking import Registry

pytestmark = [pytest.mark.integration, needs_helm]
NAME = "internlm2-chat-pico"
AVAILABLE, REASON = serving_available()
VALUES = yaml.safe_load((Path(__file__).parents[2] / "helm" / "inference" / "ci" / "cpu-values.yaml").read_text())
ONE, TWO = Wanted(NAME, "1", "1" * 64), Wanted(NAME, "2", "2" * 64)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with kubernetes_api(tmp_path) as (api, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        api.put(
            "/api/v1/namespaces/llm/configmaps/tokenmill", thing("ConfigMap", "tokenmill", data={"store": "file:///x"})
        )
        keys = {"access-key": base64.b64encode(b"a").decode(), "secret-key": base64.b64encode(b"s").decode()}
        api.put("/api/v1/namespaces/llm/secrets/tokenmill-store", thing("Secret", "tokenmill-store", data=keys))
        yield api


def thing(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}} | fields


def release(**more: Any) -> Release:
    fields = {"namespace": "llm", "helm": str(HELM_FOLDER / "helm-4"), "values": VALUES, "timeout_s": 60} | more
    return Release(DeployExecution(target="helm", **fields), Log({}))


def model_of(api: Api, name: str = "chat-inference") -> str:
    return str(api.of("Deployment")[name]["metadata"]["annotations"]["tokenmill.io/model-uri"])


def test_a_first_release_is_installed_and_a_second_takes_its_place_only_when_the_canary_says_so(cluster: Api) -> None:
    behind = release()
    done = behind.serve(ONE, description="by a test")
    assert (done.ok, done.before, done.revision, done.canary) == (True, None, 1, [])
    assert model_of(cluster) == f"models:/{NAME}/1" and not cluster.of("Job")
    assert behind.helm.history("chat")[0]["description"] == "by a test"

    cluster.jobs_fail, cluster.job_says = True, "passed  digest: fine\nFAILED  quality: 0% of 3 right\nrolled back"
    done = behind.serve(TWO)
    assert not done.ok and done.reason == "FAILED  quality: 0% of 3 right"
    assert model_of(cluster) == f"models:/{NAME}/1" and list(cluster.of("Deployment")) == ["chat-inference"]
    assert done.revision == 3 and behind.model(3)["digest"] == ONE.digest

    cluster.jobs_fail = False
    done = behind.serve(TWO)
    assert (done.ok, done.before, done.revision, done.canary) == (True, 3, 5, ["promoted"])
    assert model_of(cluster) == f"models:/{NAME}/2" and list(cluster.of("Deployment")) == ["chat-inference"]
    beside = behind.helm.values("chat", 4)
    assert beside["model"]["digest"] == ONE.digest and beside["canary"]["model"]["digest"] == TWO.digest
    assert behind.earlier() == 3  # not revision 4, which was only the canary's


def test_an_engine_that_never_gets_ready_is_undone(cluster: Api) -> None:
    release().serve(ONE)
    cluster.unready = {"tokenmill/serving-cpu:9"}
    worse = release(
        values=VALUES | {"image": {"repository": "tokenmill/serving-cpu", "tag": "9"}}, canary=False, timeout_s=5
    )
    done = worse.serve(TWO)
    assert not done.ok and "rolled back" in done.reason
    assert model_of(cluster) == f"models:/{NAME}/1"


def test_a_candidate_that_fails_alone_after_its_canary_does_not_stay_beside(
    cluster: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the node gives out between the two upgrades."""
    release().serve(ONE)
    behind = release(values=VALUES | {"image": {"repository": "tokenmill/serving-cpu", "tag": "9"}}, timeout_s=5)
    upgrade = behind.helm.upgrade

    def then_nothing_gets_ready(name: str, chart: Any, values: Any, **more: Any) -> None:
        cluster.unready = set() if values["canary"]["enabled"] else {"tokenmill/serving-cpu:9"}
        upgrade(name, chart, values, **more)

    monkeypatch.setattr(behind.helm, "upgrade", then_nothing_gets_ready)
    done = behind.serve(TWO)
    assert not done.ok and done.canary == ["promoted"]
    assert model_of(cluster) == f"models:/{NAME}/1" and list(cluster.of("Deployment")) == ["chat-inference"]
    assert done.revision == behind.helm.deployed("chat") and not behind._beside(done.revision)


def test_a_first_release_that_never_gets_ready_leaves_nothing(cluster: Api) -> None:
    cluster.unready = {"tokenmill/serving-cpu:0.1.0"}
    done = release(timeout_s=5).serve(ONE)
    assert not done.ok and done.revision is None
    assert not cluster.of("Deployment") and not cluster.of("Service")


FAULTS = {
    "the account may not create services in llm": lambda api: api.denied.add(("create", "services")),
    "the account may not list secrets in llm": lambda api: api.denied.add(("list", "secrets")),
    "Secret tokenmill-store is not in llm": lambda api: api.delete("/api/v1/namespaces/llm/secrets/tokenmill-store"),
    "llm is not there": lambda api: api.delete("/api/v1/namespaces/llm"),
    "small leaves 512Mi|536870912 of requests.memory, 1073741824": lambda api: api.put(
        "/api/v1/namespaces/llm/resourcequotas/small",
        thing(
            "ResourceQuota", "small", status={"hard": {"requests.memory": "1Gi"}, "used": {"requests.memory": "512Mi"}}
        ),
    ),
}


@pytest.mark.parametrize("said", FAULTS, ids=lambda said: said[:30])
def test_what_the_cluster_lacks_is_said_before_anything_is_changed(cluster: Api, said: str) -> None:
    FAULTS[said](cluster)
    before = set(cluster.objects)
    with pytest.raises(Unfit, match=said):
        release().serve(ONE)
    assert set(cluster.objects) == before


def test_kinds_devices_and_storage_are_looked_at(cluster: Api) -> None:
    gpus = {"metadata": {"labels": {"pool": "a"}}, "status": {"allocatable": {"nvidia.com/gpu": "4"}}}
    cluster.put("/api/v1/nodes/one", gpus | {"kind": "Node", "apiVersion": "v1"} | {"metadata": {"name": "one"}})
    values = {"gpu": {"count": 8}, "httpRoute": {"enabled": True, "parentRefs": [{"name": "gate"}]}}
    values |= {"cache": {"type": "pvc", "storageClass": "fast"}}
    wrong = {f.name: f.what for f in release(values=VALUES | values).examine(ONE) if not f.ok}
    assert "the cluster knows no HTTPRoute" in wrong["kind"]
    assert wrong["devices"] == "8 nvidia.com/gpu a pod; a node has at most 4"
    assert wrong["storage"] == "class fast is not there; there are none"


def test_what_may_not_be_looked_at_is_said_and_stops_nothing(cluster: Api) -> None:
    cluster.unlistable = {"nodes", "resourcequotas"}
    found = release(values=VALUES | {"gpu": {"count": 1}}).examine(ONE)
    assert all(one.ok for one in found)
    assert {"nvidia.com/gpu: nodes may not be listed", "not looked at, the account may not"} <= {f.what for f in found}


def test_a_way_back_needs_somewhere_to_go(cluster: Api) -> None:
    with pytest.raises(InputError, match="no release 'chat' is deployed in namespace llm"):
        release().earlier()
    release().serve(ONE)
    with pytest.raises(InputError, match="nothing to go back to"):
        release().earlier()
    with pytest.raises(InputError, match="no revision 7"):
        release().earlier(7)


@pytest.mark.parametrize(("name", "flag"), [("helm-3", "--atomic"), ("helm-4", "--rollback-on-failure")])
def test_both_helms_are_told_to_undo_what_fails(name: str, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    helm, told = Helm("llm", program=str(HELM_FOLDER / name)), list[str]()
    assert helm.major == int(name[-1])
    monkeypatch.setattr(helm, "_run", lambda *arguments: told.extend(arguments) or "")
    helm.upgrade("chat", "chart", {}, timeout_s=60)
    assert flag in told and "--wait" in told


# ---- the whole way -----------------------------------------------------------------------------------------------------


def test_a_release_that_fails_the_charts_test_is_undone(
    cluster: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No address of the Service is known here, so the test runs within: a first release goes, a second gives way."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lab, registrations = Lab(tmp_path), []
    for seed in (0, 5):
        made = released(lab, seed=seed)
        inputs = {"model": made.release, "verdict": made.verdict}
        registrations.append((made.release, lab.step("deployment.register", RegisterConfig(), **inputs)["output"]))
    execution = release(canary=False).settings

    def deploy(number: int) -> dict[str, Any]:
        made, registration = registrations[number]
        inputs = {"release": made, "registration": registration}
        output = lab.step("deployment.deploy", DeployConfig(execution=execution), **inputs)["output"]
        return dict(orjson.loads(lab.store.get_blob(output.shard("deployment.json").blob)))

    cluster.pods_fail = True
    first = deploy(0)
    assert not first["ok"] and "helm test" in first["reason"] and first["helm"]["revision"] is None
    assert not cluster.of("Deployment")
    cluster.pods_fail = False
    again = deploy(0)
    assert again["ok"] and again["asked"] == "helm test" and model_of(cluster) == f"models:/{NAME}/1"
    cluster.pods_fail = True
    once_more = deploy(0)  # as with other values: users keep it, from the revision before
    assert (once_more["ok"], once_more["still"], once_more["helm"]["revision"]) == (False, True, 3)
    second = deploy(1)
    assert (second["ok"], second["before"], second["still"], second["helm"]["revision"]) == (False, 3, False, 5)
    assert model_of(cluster) == f"models:/{NAME}/1"


def test_a_release_that_cannot_be_asked_is_undone(
    cluster: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the account may not read the engine's key, which shows only once users have the new model."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lab = Lab(tmp_path)
    made = released(lab)
    registration = lab.step("deployment.register", RegisterConfig(), model=made.release, verdict=made.verdict)["output"]
    get = Cluster.get

    def without_secrets(self: Cluster, path: str, *query: Any) -> Any:
        if "/secrets/" in path:
            raise Forbidden(f"the API server refused {path}")
        return get(self, path, *query)

    monkeypatch.setattr(Cluster, "get", without_secrets)
    config = DeployConfig(execution=release(url="http://127.0.0.1:9").settings)
    output = lab.step("deployment.deploy", config, release=made.release, registration=registration)["output"]
    told = orjson.loads(lab.store.get_blob(output.shard("deployment.json").blob))
    assert not told["ok"] and "refused" in told["reason"] and told["helm"]["revision"] is None
    assert not cluster.of("Deployment")


@pytest.mark.skipif(not AVAILABLE, reason=REASON)
def test_the_command_serves_asks_promotes_and_goes_back(
    cluster: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two releases one after the other, then back: alias and pods move together."""
    torch.set_num_threads(1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lab = Lab(tmp_path)
    monkeypatch.setenv("TOKENMILL_STORE", lab.store.uri)
    for seed in (0, 5):
        made = released(lab, seed=seed, context=512)
        lab.step("deployment.register", RegisterConfig(), model=made.release, verdict=made.verdict)
    told = thing("ConfigMap", "tokenmill", data={"store": lab.store.uri, "s3-endpoint": ""})
    cluster.put("/api/v1/namespaces/llm/configmaps/tokenmill", told)
    (port,) = free_ports(1)
    cluster.kubelet = PodProcess(cluster, tmp_path, port)
    values = VALUES | {"engine": VALUES["engine"] | {"toolCallParser": "internlm"}}
    values["engine"]["extraArgs"] = [*values["engine"]["extraArgs"], WRITES_NO_SPACE]
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    where = ["-n", "llm", "--helm", str(HELM_FOLDER / "helm-4"), "--url", f"http://127.0.0.1:{port}", "--json"]
    where += ["--timeout-s", "120"]
    registry = Registry(lab.store)
    try:
        serve = ["--values", str(tmp_path / "values.yaml"), "--no-canary", *where]
        first = run(["--model", f"models:/{NAME}/1", *serve])
        assert first["ok"], first
        assert json.loads(first["tool"].removeprefix("add(").removesuffix(")")) == {"a": 7, "b": 5}
        assert first["agreement"]["equal"] == first["agreement"]["tokens"] > 50 and first["parity"]["equal"] == 6
        assert registry.alias_version(NAME, "production") == "1"
        second = run(["--model", f"models:/{NAME}@candidate", *serve])
        assert (second["version"], second["before"], second["helm"]["revision"]) == ("2", 1, 2)
        assert registry.alias_version(NAME, "production") == "2"
        back = run(["rollback", *where])
        assert (back["version"], back["helm"]["revision"], back["promotion"]["action"]) == ("1", 3, "rolled back")
        assert registry.alias_version(NAME, "production") == "1" and model_of(cluster) == f"models:/{NAME}/1"
    finally:
        cluster.kubelet.stop()


WRITES_NO_SPACE = '--structured-outputs-config={"backend": "xgrammar", "disable_any_whitespace": true}'


def run(arguments: list[str], code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(deploying.deploy_app, arguments, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return dict(orjson.loads(done.stdout[done.stdout.index("{\n") :]))
