"""What the chart `inference` says to Kubernetes and to vLLM."""

import json
import math
import re

import pytest
import yaml
from rendered import CHARTS, HelmRefused, every_mode, helm, render

DIGEST, OTHER = "4" * 64, "5" * 64


def deployment(mode, changes=None, name="rel-inference"):
    return render("inference", mode, changes).one("Deployment", name)


def pod(mode, changes=None, name="rel-inference"):
    return deployment(mode, changes, name)["spec"]["template"]


def flags(mode, changes=None, name="rel-inference"):
    return pod(mode, changes, name)["spec"]["containers"][0]["args"]


def test_typed_flags_are_vllms_own():
    given = flags("gpu")
    for flag in (
        "--model=/models/" + "3" * 64,
        "--tensor-parallel-size=2",
        "--dtype=bfloat16",
        "--max-model-len=32768",
        "--kv-cache-dtype=fp8",
        "--enable-prefix-caching",
        "--enable-chunked-prefill",
        "--enable-auto-tool-choice",
        "--tool-call-parser=internlm",
        "--chat-template=/etc/tokenmill/chat_template.jinja",
        "--gpu-memory-utilization=0.9",
    ):
        assert flag in given
    names = given.index("--served-model-name")
    assert given[names + 1 : names + 3] == ["internlm2-chat-7b", "chat"]
    assert not any(flag.startswith(("--quantization", "--max-num-seqs", "--enforce-eager")) for flag in given)


@pytest.mark.parametrize(
    ("engine", "flag"),
    [
        ({"prefixCaching": False}, "--no-enable-prefix-caching"),
        ({"quantization": "awq"}, "--quantization=awq"),
        ({"kvCacheMemoryBytes": 8589934592}, "--kv-cache-memory-bytes=8589934592"),
        ({"maxModelLen": 200000}, "--max-model-len=200000"),
        ({"runner": "pooling"}, "--runner=pooling"),
        ({"reasoningParser": "deepseek_r1"}, "--reasoning-parser=deepseek_r1"),
        ({"extraArgs": ["--swap-space=4"]}, "--swap-space=4"),
        ({"pipelineParallelSize": 2}, "--pipeline-parallel-size=2"),
    ],
)
def test_one_flag(engine, flag):
    assert flag in flags("keda", {"engine": engine})


def test_gpus_follow_the_parallel_sizes_unless_they_are_given():
    def gpus(changes):
        return pod("keda", changes)["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")

    assert gpus({}) == "1"
    assert gpus({"engine": {"tensorParallelSize": 4, "pipelineParallelSize": 2}}) == "8"
    assert gpus({"gpu": {"count": 0}}) is None
    assert gpus({"engine": {"tensorParallelSize": 4}, "gpu": {"count": 1}}) == "1"
    assert pod("pvc")["spec"]["containers"][0]["resources"]["requests"]["nvidia.com/mig-3g.40gb"] == "1"


def test_a_rollout_asks_for_no_gpu_that_may_not_be_there():
    def rolling(changes):
        return deployment("gpu", changes)["spec"]["strategy"]["rollingUpdate"]

    assert rolling({}) == {"maxSurge": 0, "maxUnavailable": 1}
    assert rolling({"replicas": 1}) == {"maxSurge": 1, "maxUnavailable": 0}
    assert rolling({"gpu": {"count": 0}}) == {"maxSurge": 1, "maxUnavailable": 0}
    assert rolling({"strategy": {"maxSurge": "50%"}}) == {"maxSurge": "50%", "maxUnavailable": 0}


@pytest.mark.parametrize("gib", [0.5, 15, 40.3])
def test_the_startup_probe_waits_as_long_as_the_model_is_large(gib):
    probe = pod("keda", {"model": {"sizeGiB": gib}})["spec"]["containers"][0]["startupProbe"]
    allowed = probe["periodSeconds"] * probe["failureThreshold"]
    assert math.ceil(300 + 20 * gib) <= allowed < math.ceil(300 + 20 * gib) + probe["periodSeconds"]


def test_a_pod_that_must_go_outlives_its_longest_request():
    spec = pod("keda")["spec"]
    hook = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert hook[:2] == ["python3", "/etc/tokenmill/drain.py"]
    assert spec["terminationGracePeriodSeconds"] > float(hook[3]) + float(hook[4])
    assert float(hook[4]) == 300


def init(mode, changes=None):
    return pod(mode, changes)["spec"].get("initContainers", [])


@pytest.mark.parametrize(
    ("mode", "arguments", "served"),
    [
        ("keda", ["s3://models/chat/v3", "--into=/models", f"--digest={DIGEST}"], f"/models/{DIGEST}"),
        ("service-canary", ["store:", "--into=/models", f"--digest={DIGEST}"], f"/models/{DIGEST}"),
        ("cpu", ["s3://tokenmill/releases/chat", "--into=/models", "--link=/models/unpinned"], "/models/unpinned"),
        ("image", ["file:///release", "--into=/models", f"--digest={DIGEST}"], f"/models/{DIGEST}"),
        ("pvc", ["file:///mounted/chat/v3", f"--digest={DIGEST}"], "/mounted/chat/v3"),
        ("oci", ["file:///mounted", f"--digest={DIGEST}"], "/mounted"),
    ],
)
def test_a_model_is_verified_before_it_is_served(mode, arguments, served):
    first = init(mode)[0]
    assert first["command"] == ["python", "-m", "tokenmill.deployment.fetch"]
    assert first["args"] == arguments
    assert f"--model={served}" in flags(mode)
    mounts = {m["mountPath"]: m for m in pod(mode)["spec"]["containers"][0]["volumeMounts"]}
    assert mounts["/" + served.split("/")[1]]["readOnly"] is True


def test_the_hubs_model_is_fetched_by_vllm_at_a_revision():
    assert init("hub") == []
    assert "--model=internlm/internlm2-chat-7b" in flags("hub") and "--revision=" + "6" * 40 in flags("hub")
    assert "--middleware=model_digest.ModelDigest" not in flags("hub")


def test_the_hubs_token_comes_from_a_secret_and_reaches_no_other_model():
    def token(mode):
        return [e for e in pod(mode)["spec"]["containers"][0]["env"] if e["name"] == "HF_TOKEN"]

    assert token("hub") == [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]
    assert token("keda") == []


def test_keys_are_given_to_the_init_container_only_and_only_if_it_needs_them():
    def variables(container):
        return {e["name"] for e in container["env"]}

    assert {"AWS_SECRET_ACCESS_KEY", "TOKENMILL_STORE", "TOKENMILL_S3_ENDPOINT"} <= variables(init("keda")[0])
    assert not any(v.startswith("AWS_") for v in variables(pod("keda")["spec"]["containers"][0]))
    assert not any(v.startswith("AWS_") for v in variables(init("image")[0]))


def test_adapters_are_fetched_and_named():
    assert [c["name"] for c in init("pvc")] == ["model", "adapter-sql", "adapter-law"]
    given = flags("pvc")
    at = given.index("--lora-modules")
    runtime = {"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "1"}
    assert (
        runtime in pod("pvc")["spec"]["containers"][0]["env"]
        and runtime not in pod("keda")["spec"]["containers"][0]["env"]
    )
    assert given[at + 1 : at + 3] == [f"sql=/models/{OTHER}", f"law=/models/{DIGEST}"]


def test_answers_and_pods_say_which_model_it_is():
    made = deployment("gpu")
    for metadata in (made["metadata"], made["spec"]["template"]["metadata"]):
        assert metadata["annotations"]["tokenmill.io/model-digest"] == "3" * 64
        assert metadata["annotations"]["tokenmill.io/mlflow-version"] == "internlm2-chat-7b/3"
    assert "--middleware=model_digest.ModelDigest" in flags("gpu")
    assert {"name": "MODEL_DIGEST", "value": "3" * 64} in pod("gpu")["spec"]["containers"][0]["env"]


@pytest.mark.parametrize(
    ("cache", "volume"),
    [
        ({"type": "emptyDir"}, {"emptyDir": {"sizeLimit": "20480Mi"}}),
        ({"type": "pvc"}, {"persistentVolumeClaim": {"claimName": "rel-inference-models"}}),
        ({"type": "pvc", "existingClaim": "mine"}, {"persistentVolumeClaim": {"claimName": "mine"}}),
        ({"type": "hostPath"}, {"hostPath": {"path": "/var/lib/tokenmill/models", "type": "DirectoryOrCreate"}}),
    ],
)
def test_the_cache_is_where_it_should_be(cache, volume):
    rendered = render("inference", "keda", {"cache": cache})
    volumes = rendered.one("Deployment")["spec"]["template"]["spec"]["volumes"]
    assert [v for v in volumes if v["name"] == "models"] == [{"name": "models"} | volume]
    assert len(rendered.of("PersistentVolumeClaim")) == (
        volume.get("persistentVolumeClaim", {}).get("claimName") == "rel-inference-models"
    )


def test_shared_memory_is_there():
    volumes = {v["name"]: v for v in pod("gpu")["spec"]["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}


def test_keda_looks_at_the_queue_the_cache_and_the_first_token():
    scaled = render("inference", "keda").one("ScaledObject")["spec"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (0, 8)
    queries = [t["metadata"]["query"] for t in scaled["triggers"] if t["type"] == "prometheus"]
    for metric in (
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:time_to_first_token_seconds_bucket",
        "envoy",
    ):
        assert any(metric in query for query in queries), metric
    assert all(isinstance(value, str) for t in scaled["triggers"] for value in t["metadata"].values())
    assert "replicas" not in deployment("keda")["spec"]  # who scales decides


def test_hpa_looks_at_the_same():
    scaled = render("inference", "hpa").one("HorizontalPodAutoscaler")["spec"]
    targets = {m["pods"]["metric"]["name"]: m["pods"]["target"]["averageValue"] for m in scaled["metrics"]}
    assert targets == {
        "vllm_num_requests_waiting": "4000m",
        "vllm_kv_cache_usage_perc": "850m",
        "vllm_time_to_first_token_seconds_p95": "2000m",
    }
    assert scaled["minReplicas"] == 2 and "replicas" not in deployment("hpa")["spec"]


WHERE = {
    "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "serving",
    "runtimeClassName": "nvidia",
}


@pytest.mark.parametrize("name", ["rel-inference", "rel-inference-candidate"])
def test_pods_of_either_track_run_where_they_are_told(name):
    spread = [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}]
    spec = pod("service-canary", WHERE | {"topologySpread": spread}, name)["spec"]
    assert {key: spec.get(key) for key in WHERE} == WHERE
    (constraint,) = spec["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "topology.kubernetes.io/zone"
    assert (
        constraint["labelSelector"]["matchLabels"].items()
        <= pod("service-canary", None, name)["metadata"]["labels"].items()
    )


def test_a_canary_is_a_second_deployment_that_differs_in_what_it_says():
    stable, candidate = pod("service-canary"), pod("service-canary", name="rel-inference-candidate")
    assert stable["spec"]["containers"][0]["image"] == "vllm/vllm-openai:v0.32.0"
    assert candidate["spec"]["containers"][0]["image"] == "vllm/vllm-openai:v0.33.0"
    assert f"--model=/models/{OTHER}" in candidate["spec"]["containers"][0]["args"]
    assert set(candidate["spec"]["containers"][0]["args"]) - set(stable["spec"]["containers"][0]["args"]) == {
        f"--model=/models/{OTHER}",
        "--max-num-seqs=64",
    }


def test_weights_add_up_and_begin_with_the_first_step():
    backends = render("inference", "route-canary").one("HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    assert {b["name"]: b["weight"] for b in backends} == {"rel-inference-stable": 90, "rel-inference-candidate": 10}
    services = {s["metadata"]["name"] for s in render("inference", "route-canary").of("Service")}
    assert {b["name"] for b in backends} <= services


def test_tls_is_terminated_by_a_gateway_with_nothing_but_https():
    gateway = render("inference", "route-canary").one("Gateway")["spec"]
    assert [(x["protocol"], x["port"], x["hostname"]) for x in gateway["listeners"]] == [
        ("HTTPS", 443, "chat.example.com")
    ]
    assert gateway["listeners"][0]["tls"]["certificateRefs"][0]["name"] == "chat-tls"


@pytest.mark.parametrize("mode", ["route-canary", "service-canary"])
def test_the_analysis_has_a_plan_that_its_program_reads_and_a_role_for_one_object(mode, tmp_path):
    from tokenmill.deployment.rollout import read_plan

    rendered = render("inference", mode)
    (tmp_path / "plan.json").write_text(rendered.one("ConfigMap", "rel-inference-canary")["data"]["plan.json"])
    plan = read_plan(tmp_path / "plan.json")
    services = {s["metadata"]["name"]: s["spec"] for s in rendered.of("Service")}
    for track, url in (("stable", plan.stable), ("candidate", plan.candidate)):
        name, _, port = url.removeprefix("http://").partition(":")
        assert services[name]["selector"]["tokenmill.io/track"] == track and services[name]["ports"][0]["port"] == int(
            port
        )
    assert plan.digest == OTHER and plan.model == "chat" and plan.namespace == "llm"
    assert plan.steps == ([10, 50] if mode == "route-canary" else [0])
    assert (plan.prometheus is not None) == (mode == "route-canary")
    (rule,) = rendered.one("Role")["rules"]
    assert rule["resourceNames"] == [plan.name] and rule["verbs"] == ["get", "patch"]
    assert rule["resources"] == ["httproutes" if mode == "route-canary" else "services"]
    assert rendered.of(plan.kind, plan.name)
    job = rendered.one("Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-upgrade" and job["spec"]["backoffLimit"] == 0
    assert job["spec"]["activeDeadlineSeconds"] > plan.ready_seconds + len(plan.steps) * plan.step_seconds


def test_the_probes_pattern_arrives_as_it_was_written():
    plan = json.loads(render("inference", "route-canary").one("ConfigMap", "rel-inference-canary")["data"]["plan.json"])
    assert plan["probes"][0]["expect"] == r"\b12\b"


def test_without_a_candidate_nothing_of_a_canary_is_there():
    rendered = render("inference", "cpu")
    assert len(rendered.of("Deployment")) == 1 and rendered.of("Role") == rendered.of("Job") == []
    assert [s["metadata"]["name"] for s in rendered.of("Service")] == ["rel-inference"]


def test_the_cpu_profile_fits_a_bare_node():
    rendered = render("inference", "cpu")
    spec = rendered.one("Deployment")["spec"]["template"]["spec"]
    assert {next(key for key in v if key != "name") for v in spec["volumes"]} <= {"emptyDir", "configMap"}
    assert rendered.of("PersistentVolumeClaim") == [] and rendered.one("Service")["spec"]["type"] == "ClusterIP"
    for container in spec["containers"] + spec["initContainers"]:
        assert container["imagePullPolicy"] == "IfNotPresent" and "nvidia.com/gpu" not in str(container["resources"])
    assert {o["apiVersion"] for o in rendered.objects} <= {"v1", "apps/v1", "policy/v1", "networking.k8s.io/v1"}


@every_mode
def test_the_notes_hold_a_curl_that_can_be_pasted(chart, mode):
    """By Helm 4: Helm 3's dry run asks a cluster for its version."""
    values, folder = str(CHARTS / chart / "ci" / f"{mode}-values.yaml"), str(CHARTS / chart)
    if mode == "oci":
        pytest.skip("without a cluster Helm takes its own Kubernetes version, which may have no image volumes")
    notes = helm("helm-4", "install", "rel", folder, "-n", "llm", "-f", values, "--dry-run=client").partition("NOTES:")[
        2
    ]
    for body in re.findall(r"-d '(.*)'", notes):
        assert json.loads(body)["messages"]
    assert ("curl" in notes) == (mode != "team")  # a team's namespace has no service of its own
    assert "%!" not in notes and "<no value>" not in notes
    if (chart, mode) == ("inference", "cpu"):
        assert "kubectl -n llm port-forward service/rel-inference 8000:80" in notes
        assert "WARNING: model.unpinned" in notes


def test_more_objects_are_templates():
    assert render("inference", "image").of("ConfigMap", "rel-inference-more")


def test_names_are_cut_to_what_kubernetes_takes():
    rendered = render("inference", "service-canary", {"fullnameOverride": "a" * 80})
    assert max(len(o["metadata"]["name"]) for o in rendered.objects) <= 63


def test_a_digest_of_digits_stays_text():
    digits = "1234567890" * 6 + "1e10"
    env = pod("keda", {"model": {"digest": digits}})["spec"]["containers"][0]["env"]
    assert {"name": "MODEL_DIGEST", "value": digits} in env


@pytest.mark.parametrize(
    "wrong", [{"model": {"uri": "store:", "digest": ""}}, {"model": {"digest": "", "unpinned": False}}]
)
def test_an_unpinned_model_is_refused(wrong):
    with pytest.raises(HelmRefused, match=r"model\.digest: "):
        render("inference", "keda", wrong)


def test_the_chart_names_the_image_that_the_platform_builds():
    from tokenmill import images

    values = yaml.safe_load((CHARTS / "inference/values.yaml").read_text())["fetch"]["image"]
    assert f"{values['repository']}:{values['tag']}" == images.DEPLOYER


@pytest.mark.parametrize("mode", ["gpu", "pvc", "cpu"])
def test_the_init_container_of_a_model_asks_for_a_signature_where_there_is_a_key(mode):
    """An adapter is no release and cannot be signed; its digest is what it is held to."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = (
        Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    )
    adapter = {"name": "poet", "uri": "store:", "digest": OTHER}
    changes = {"fetch": {"publicKeys": pem}, "lora": {"adapters": [adapter]}}
    asked = {
        c["name"]: {e["name"]: e.get("value") for e in c["env"]}.get("TOKENMILL_PUBLIC_KEY")
        for c in pod(mode, changes)["spec"]["initContainers"]
    }
    assert asked == {"model": pem, "adapter-poet": None}
    assert not any(e["name"] == "TOKENMILL_PUBLIC_KEY" for c in pod(mode)["spec"]["initContainers"] for e in c["env"])
