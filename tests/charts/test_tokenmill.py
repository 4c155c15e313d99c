"""What the chart `tokenmill` hands to pipelines and models, and how it guards it."""

import base64
import json
import re

import pytest
import yaml
from rendered import CHARTS, ROOT, HelmRefused, render

from tokenmill import images
from tokenmill.config import load_preset, merge, nest
from tokenmill.lifecycle_config import LifecycleConfig


def data(rendered, kind, name):
    found = rendered.one(kind, name)["data"]
    return {k: base64.b64decode(v).decode() for k, v in found.items()} if kind == "Secret" else found


def test_pipelines_find_what_their_profiles_refer_to():
    """Names and keys as the compiled packages hold them."""
    rendered = render("tokenmill", "cpu")
    for path in (ROOT / "pipelines/tokenmill/profiles").glob("*.yaml"):
        wanted = yaml.safe_load(path.read_text())["all"]["kubernetes"]
        for entry in wanted["secretAsEnv"]:
            if entry.get("optional"):  # made by who wants it: a webhook's address
                continue
            assert {k["secretKey"] for k in entry["keyToEnv"]} <= data(rendered, "Secret", entry["secretName"]).keys()
        for entry in wanted["configMapAsEnv"]:
            assert {k["configMapKey"] for k in entry["keyToEnv"]} <= data(
                rendered, "ConfigMap", entry["configMapName"]
            ).keys()


def test_the_inference_chart_refers_to_the_same_objects():
    values = yaml.safe_load((CHARTS / "inference/values.yaml").read_text())["store"]
    rendered = render("tokenmill", "cpu")
    assert rendered.of("ConfigMap", values["configMap"]) and rendered.of("Secret", values["secret"])


def test_the_trials_store_knows_the_keys_that_everybody_gets():
    rendered = render("tokenmill", "cpu")
    keys = data(rendered, "Secret", "tokenmill-store")
    (identity,) = json.loads(data(rendered, "Secret", "rel-tokenmill-object-store")["s3.json"])["identities"]
    assert identity["credentials"] == [{"accessKey": keys["access-key"], "secretKey": keys["secret-key"]}]
    assert len(keys["secret-key"]) == 40
    wiring = data(rendered, "ConfigMap", "tokenmill")
    assert wiring["s3-endpoint"] == "http://rel-tokenmill-object-store.llm.svc:8333"
    assert wiring["store"] == "s3://tokenmill" and wiring["mlflow"] == "http://rel-tokenmill-mlflow.llm.svc:5000"


def test_what_exists_already_is_used():
    rendered = render("tokenmill", "production")
    assert rendered.of("Secret") == [] and rendered.of("StatefulSet") == []
    wiring = data(rendered, "ConfigMap", "tokenmill")
    assert wiring["store"] == "s3://llm/team-a" and wiring["s3-endpoint"] == "https://minio.example.com:9000"
    mlflow = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    env = {e["name"]: e for e in mlflow["env"]}
    assert env["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"] == {"name": "minio-keys", "key": "access-key"}
    assert env["MLFLOW_BACKEND_STORE_URI"]["valueFrom"]["secretKeyRef"] == {"name": "mlflow-database", "key": "uri"}
    assert "--artifacts-destination=s3://llm/mlflow" in mlflow["args"]


def test_a_pipeline_is_told_where_to_serve_and_may():
    serving = {"enabled": True, "values": {"gpu": {"count": 2}}}
    changes = {"serving": serving, "execution": {"sft.train.execution.ranks": 8}}
    changes["serviceAccounts"] = {"deployment": {"create": True}}
    chart = render("tokenmill", "production", changes)
    told = json.loads(chart.one("ConfigMap", "tokenmill")["data"]["execution"])
    assert nest(told) == {
        "sft": {"train": {"execution": {"ranks": 8}}},
        "deployment": {
            "deploy": {
                "execution": {"target": "helm", "release": "chat", "namespace": "llm", "values": {"gpu": {"count": 2}}}
            }
        },
    }
    LifecycleConfig.at("", merge(load_preset("pico"), nest(told)))
    accounts = [s["name"] for s in chart.one("RoleBinding", "tokenmill-deployment")["subjects"]]
    assert accounts == ["tokenmill-deployment", "tokenmill-pipeline"]
    assert render("tokenmill", "production").one("ConfigMap", "tokenmill")["data"]["execution"] == ""


def test_teams_are_apart():
    first, second = render("tokenmill", "production"), render("tokenmill", "team")
    assert second.of("Deployment") == [] and second.of("ClusterQueue") == []
    assert data(first, "ConfigMap", "tokenmill")["store"] != data(second, "ConfigMap", "tokenmill")["store"]
    assert second.one("LocalQueue")["spec"]["clusterQueue"] == "team-a-tokenmill"


def test_mlflow_answers_to_its_service_names_and_is_probed_under_one_of_them():
    mlflow = render("tokenmill", "production").one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    (hosts,) = [
        a.removeprefix("--allowed-hosts=").split(",") for a in mlflow["args"] if a.startswith("--allowed-hosts=")
    ]
    assert {"rel-tokenmill-mlflow:5000", "rel-tokenmill-mlflow.llm.svc:5000", "mlflow.example.com"} <= set(hosts)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        (header,) = mlflow[probe]["httpGet"]["httpHeaders"]
        assert any(re.fullmatch(host.replace("*", r"\d+"), header["value"]) for host in hosts)


def test_sqlite_has_one_writer():
    assert render("tokenmill", "cpu").one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert render("tokenmill", "production").one("Deployment")["spec"]["strategy"] == {"type": "RollingUpdate"}


def test_a_steps_account_may_start_what_the_values_say_and_touch_nothing_else():
    def rules(mode):
        return render("tokenmill", mode).one("Role", "tokenmill-pipeline")["rules"]

    def writes(rules):
        return {
            r
            for rule in rules
            if {"create", "delete", "patch", "update"} & set(rule["verbs"])
            for r in rule["resources"]
        }

    assert writes(rules("cpu")) == {"workflowtaskresults"}
    assert writes(rules("full")) == {"workflowtaskresults", "trainjobs", "jobs"}
    assert "secrets" not in str(rules("full"))


def test_the_deployments_account_holds_every_right_over_every_kind_that_the_inference_chart_makes():
    """Helm as that account must be able to install every mode, and give the canary its role."""
    plural = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}
    held = set()
    for rule in render("tokenmill", "full").one("Role", "tokenmill-deployment")["rules"]:
        held |= {(g, r) for g in rule["apiGroups"] for r in rule["resources"] if "create" in rule["verbs"]}
    from rendered import MODES

    for chart, mode in MODES:
        for o in render(chart, mode).objects if chart == "inference" else []:
            group = o["apiVersion"].partition("/")[0] if "/" in o["apiVersion"] else ""
            assert (group, plural.get(o["kind"], o["kind"].lower() + "s")) in held, o["kind"]


@pytest.mark.parametrize(
    ("mode", "component", "command"),
    [
        ("cpu", "prepare", ["python", "-m", "tokenmill.deployment.prepare", "--patience=180"]),
        (
            "production",
            "upload",
            ["tokenmill", "upload", "lifecycle", "evaluation", "--preset=internlm2-7b", "--profile=gpu",
             "--host=http://ml-pipeline.kubeflow.svc:8888", "--registry=registry.example.com/tokenmill"],
        ),
    ],
)  # fmt: skip
def test_jobs_run_programs_that_exist_with_options_that_they_have(mode, component, command, run_python):
    job = render("tokenmill", mode).one("Job", f"rel-tokenmill-{component}")
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == command
    env = {e["name"] for e in container["env"]}
    assert {"TOKENMILL_STORE", "TOKENMILL_S3_ENDPOINT", "MLFLOW_TRACKING_URI", "AWS_ACCESS_KEY_ID"} <= env


def test_the_upload_command_is_one_of_the_cli(run_python):
    told = run_python(
        "import sys; sys.argv = ['tokenmill', 'upload', '--help']; from tokenmill.cli import main; main()", TERM="dumb"
    )
    assert all(option in told for option in ("--preset", "--profile", "--host", "--registry"))


def test_queues_are_there_when_they_are_wanted():
    rendered = render("tokenmill", "full")
    queue = rendered.one("ClusterQueue")["spec"]["resourceGroups"][0]
    assert queue["coveredResources"] == [r["name"] for r in queue["flavors"][0]["resources"]]
    assert rendered.one("LocalQueue")["spec"]["clusterQueue"] == rendered.one("ClusterQueue")["metadata"]["name"]
    assert rendered.one("Queue")["spec"]["weight"] == 1
    assert render("tokenmill", "cpu").of("LocalQueue") == []


def test_the_cpu_profile_fits_a_bare_node():
    rendered = render("tokenmill", "cpu")
    for name, pod in rendered.pods():
        assert {next(k for k in v if k != "name") for v in pod["spec"]["volumes"]} <= {
            "emptyDir",
            "configMap",
            "secret",
        }, name
        for container in pod["spec"]["containers"]:
            assert container["imagePullPolicy"] == "IfNotPresent"
    assert rendered.of("PersistentVolumeClaim") == []
    assert "volumeClaimTemplates" not in rendered.one("StatefulSet")["spec"]
    assert {s["spec"].get("type", "ClusterIP") for s in rendered.of("Service")} == {"ClusterIP"}
    assert not {o["apiVersion"].partition("/")[0] for o in rendered.objects} - {
        "v1",
        "apps",
        "batch",
        "networking.k8s.io",
        "rbac.authorization.k8s.io",
    }


@pytest.mark.parametrize(
    ("mode", "changes", "named"),
    [
        ("cpu", {"store": {"endpoint": "http://minio:9000"}}, "store: objectStore.enabled brings its own endpoint"),
        ("cpu", {"objectStore": {"enabled": False}}, "store: give the keys of the object store"),
        ("cpu", {"mlflow": {"url": "http://m:5000"}}, "mlflow.url: an existing MLflow is named"),
        ("cpu", {"mlflow": {"database": {"kind": "postgresql"}}}, "mlflow.database.existingSecret"),
        ("cpu", {"mlflow": {"database": {"kind": "mysql"}}}, "kind"),
        ("cpu", {"store": {"bucket": "My_Bucket"}}, "bucket"),
        ("cpu", {"store": {"endpoint": "http://key:secret@minio:9000"}}, "endpoint"),
        ("cpu", {"mlfow": {"enabled": False}}, "mlfow"),
        ("cpu", {"pipelines": {"upload": {"names": ["lifecycl"]}}}, "names"),
        ("cpu", {"mlflow": {"workers": 0}}, "workers"),
        ("cpu", {"image": {"tag": "latest"}}, "is another image tomorrow"),
        ("full", {"pushgateway": {"url": "http://p:9091"}}, "pushgateway.url"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("name", ["helm-3", "helm-4"])
def test_what_cannot_be_meant_is_refused(mode, changes, named, name):
    with pytest.raises(HelmRefused) as refused:
        render("tokenmill", mode, changes, name=name)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "restarts"),
    [
        ({"store": {"prefix": "b"}}, set()),
        ({"store": {"bucket": "other"}}, {"Deployment/rel-tokenmill-mlflow"}),
        ({"mlflow": {"workers": 3}}, {"Deployment/rel-tokenmill-mlflow"}),
        ({"pushgateway": {"image": {"tag": "v2.0.0"}}}, {"Deployment/rel-tokenmill-pushgateway"}),
        ({"objectStore": {"volumeSizeLimitMB": 512}}, {"StatefulSet/rel-tokenmill-object-store"}),
        ({"quota": {"enabled": False}, "kueue": {"enabled": False}}, set()),
        ({"networkPolicy": {"clientNamespaces": ["x"]}}, set()),
        ({"pipelines": {"upload": {"preset": "nano"}}}, set()),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_a_change_restarts_what_it_concerns(changes, restarts):
    before, after = ({n: json.dumps(p) for n, p in render("tokenmill", "full", c).pods()} for c in ({}, changes))
    assert {n for n in before if before[n] != after.get(n) and n.startswith(("Deployment", "Stateful"))} == restarts


def test_the_chart_names_the_image_that_the_platform_builds():
    values = yaml.safe_load((CHARTS / "tokenmill/values.yaml").read_text())
    version = yaml.safe_load((CHARTS / "tokenmill/Chart.yaml").read_text())["appVersion"]
    assert f"{values['image']['repository']}:{version}" == images.DEPLOYER
