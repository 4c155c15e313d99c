"""Values that cannot be meant are refused before Kubernetes sees anything, in words that name them."""

import json

import pytest
from rendered import HELMS, HelmRefused, render

PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"
BAD = [
    ("cpu", {"replicas": -1}, "replicas"),
    ("cpu", {"replicas": "two"}, "replicas"),
    ("cpu", {"engine": {"tensorParalelSize": 2}}, "tensorParalelSize"),
    ("cpu", {"engin": {}}, "engin"),
    ("cpu", {"engine": {"dtype": "float8"}}, "dtype"),
    ("cpu", {"engine": {"gpuMemoryUtilization": 1.5}}, "gpuMemoryUtilization"),
    ("cpu", {"engine": {"gpuMemoryUtilization": "1.5"}}, "gpuMemoryUtilization"),
    ("cpu", {"model": {"uri": "ftp://somewhere/chat"}}, "uri"),
    ("cpu", {"model": {"uri": "hf://internlm/internlm2-chat-7b"}}, "uri"),  # no revision
    ("cpu", {"model": {"digest": "abc"}}, "digest"),
    ("cpu", {"model": {"servedNames": []}}, "servedNames"),
    ("cpu", {"cache": {"type": "nfs"}}, "cache"),
    ("cpu", {"service": {"port": 70000}}, "port"),
    ("cpu", {"autoscaling": {"mode": "vpa"}}, "mode"),
    ("cpu", {"autoscaling": {"mode": "hpa", "minReplicas": 0}}, "only KEDA can go down to 0"),
    ("cpu", {"autoscaling": {"mode": "keda", "minReplicas": 9}}, "must not be below minReplicas"),
    (
        "cpu",
        {"autoscaling": {"mode": "keda", "targets": {"requestsWaiting": 0, "kvCacheUsage": 0, "ttftSeconds": 0}}},
        "at least one",
    ),
    ("cpu", {"image": {"tag": "latest"}}, "`latest` of tokenmill/serving-cpu is another image tomorrow"),
    ("cpu", {"image": {"digest": "sha256:12"}}, "digest"),
    ("cpu", {"httpRoute": {"enabled": True}}, "httpRoute.parentRefs: name the Gateway"),
    ("cpu", {"httpRoute": {"enabled": True, "tls": {"enabled": True}}}, "httpRoute.tls: secretName"),
    ("cpu", {"canary": {"enabled": True}}, "canary: say what the candidate differs in"),
    ("cpu", {"canary": {"steps": []}}, "steps"),
    ("cpu", {"canary": {"steps": [120]}}, "steps"),
    ("cpu", {"canary": {"enabled": True, "model": {"uri": "s3://models/other"}}}, "canary.model.digest"),
    ("cpu", {"canary": {"analysis": {"probes": [{"prompt": "Hi"}]}}}, "expect"),
    ("cpu", {"lora": {"adapters": [{"name": "x", "uri": "store:"}]}}, "digest"),
    ("cpu", {"fetch": {"publicKeys": "-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----"}}, "publicKeys"),
    ("hub", {"fetch": {"publicKeys": PUBLIC_KEY}}, "fetch.publicKeys: vLLM fetches an hf:// model by itself"),
    ("cpu", {"cache": {"type": "pvc"}}, "an unpinned model may not share a cache"),
    ("cpu", {"shmSize": "2G"}, "shmSize"),
    ("keda", {"model": {"digest": ""}}, "model.digest: give the digest"),
]


@pytest.mark.parametrize("name", HELMS)
@pytest.mark.parametrize(("mode", "changes", "named"), BAD, ids=[json.dumps(changes)[:60] for _, changes, _ in BAD])
def test_inference(mode, changes, named, name):
    with pytest.raises(HelmRefused) as refused:
        render("inference", mode, changes, name=name)
    assert named in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 6


def test_an_image_volume_is_refused_where_kubernetes_has_none():
    with pytest.raises(
        HelmRefused, match=r"oci:// needs image volumes, which are on from Kubernetes 1\.33; this is v?1\.30\.0"
    ):
        render("inference", "oci", kube="1.30.0")


def test_numbers_may_come_from_the_command_line_as_text():
    """`--set x=0.5` makes a string of 0.5."""
    rendered = render(
        "inference",
        "cpu",
        {"engine": {"kvCacheMemoryBytes": 0, "gpuMemoryUtilization": "0.5"}, "model": {"sizeGiB": "1.5"}},
    )
    engine = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert "--gpu-memory-utilization=0.5" in engine["args"]
    assert engine["startupProbe"]["failureThreshold"] == 66  # (300 + 20 × 1.5) / 5
