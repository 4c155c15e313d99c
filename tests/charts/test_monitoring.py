"""Alerts that fire when they should and are silent when not, by promtool; dashboards over metrics that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import known_metrics as metrics
import pytest
import yaml
from rendered import ROOT, render

from tokenmill.telemetry import METRICS

OURS = set(METRICS)
KNOWN = OURS | metrics.VLLM | metrics.VLLM_SERVER | metrics.CLUSTER | metrics.PROMETHEUS
WITH_RULES = [("inference", "gpu"), ("tokenmill", "full")]
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: apt-get install prometheus")
MATCHERS = 'namespace="llm",service="rel-inference-metrics"'


def promtool(*arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules(folder, chart, mode, changes=None):
    spec = render(chart, mode, changes).one("PrometheusRule")["spec"]
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def used(expression):
    """Names of metrics in an expression: what is neither a label, a function nor a string."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}", "{}", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    words = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\()\b", bare)
    functions = set(re.findall(r"([a-z_0-9]+)\s*\(", bare))
    return {
        word
        for word in words
        if word not in functions | {"and", "or", "unless", "bool", "offset", "by"} and not word.isdigit()
    }


def test_names_are_told_from_labels_and_functions():
    told = used(
        'histogram_quantile(0.95, sum by (le, track) (rate(vllm:x_bucket{a="b{c"}[5m]))) > 2 and up{x!=""} unless absent(y)'
    )
    assert told == {"vllm:x_bucket", "up", "y"}


@needs_promtool
@pytest.mark.parametrize(("chart", "mode"), WITH_RULES)
def test_the_rules_are_promql(chart, mode, tmp_path):
    assert "SUCCESS" in promtool("check", "rules", rules(tmp_path, chart, mode))


@pytest.mark.parametrize(("chart", "mode"), WITH_RULES)
def test_alerts_look_at_metrics_that_exist_and_say_what_to_do(chart, mode):
    groups = render(chart, mode).one("PrometheusRule")["spec"]["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        assert used(rule["expr"]) <= KNOWN, rule["alert"]
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]
        assert rule["labels"]["severity"] in ("warning", "critical")


@pytest.mark.parametrize(("chart", "mode"), WITH_RULES)
def test_dashboards_are_json_over_metrics_that_exist(chart, mode):
    found = 0
    for config in render(chart, mode).of("ConfigMap"):
        if not config["metadata"]["name"].endswith("dashboard"):
            continue
        for name, text in config["data"].items():
            assert name.endswith(".json") and "@" not in text
            board = json.loads(text)
            assert board["title"] and len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
            for panel in board["panels"]:
                for target in panel["targets"]:
                    assert used(target["expr"].replace("$__rate_interval", "5m")) <= KNOWN, panel["title"]
                    found += 1
    assert found >= 5


@needs_promtool
@pytest.mark.parametrize(("chart", "mode"), WITH_RULES)
def test_dashboards_are_promql(chart, mode, tmp_path):
    """As rules that record nothing: promtool has no command for a bare expression."""
    expressions = [
        target["expr"].replace("$__rate_interval", "5m")
        for config in render(chart, mode).of("ConfigMap")
        if config["metadata"]["name"].endswith("dashboard")
        for text in config["data"].values()
        for panel in json.loads(text)["panels"]
        for target in panel["targets"]
    ]
    recorded = [{"record": f"panel:{n}", "expr": expression} for n, expression in enumerate(expressions)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    promtool("check", "rules", tmp_path / "panels.yaml")


@pytest.mark.skipif(not (ROOT / ".venv-serve").exists(), reason="no serving environment: make serve")
def test_vllms_metrics_are_vllms():
    """Against the source of the vLLM that is served here."""
    found = list((ROOT / ".venv-serve").glob("lib/python3*/site-packages/vllm/v1/metrics/*.py"))
    if not found:
        pytest.skip("vLLM cannot be had here")
    text = "\n".join(path.read_text() for path in found)
    absent = [name for name in metrics.VLLM if f'"{re.sub("_(total|bucket)$", "", name)}"' not in text]
    assert absent == []


def buckets(track, slow):
    """TTFT at 60 requests a minute, all within 1 s, or all between 8 and 10 s."""
    fast = "0+0x30" if slow else "0+60x30"
    where = f'vllm:time_to_first_token_seconds_bucket{{{MATCHERS},track="{track}",le='
    return [
        (where + f'"{le}"}}', values)
        for le, values in (("1.0", fast), ("8.0", fast), ("10.0", "0+60x30"), ("+Inf", "0+60x30"))
    ]


UP = f'up{{{MATCHERS},track="stable",pod="a",model_digest="d1"}}'
UP2 = f'up{{{MATCHERS},track="stable",pod="b",model_digest="%s"}}'
HTTP = f'http_requests_total{{{MATCHERS},track="stable",handler="/v1/chat/completions",status="%s"}}'
WAITING = f'vllm:num_requests_waiting{{{MATCHERS},track="stable",pod="a"}}'
CASES = [
    ("InferenceAbsent", [(UP, "0x30")], "6m", True),
    ("InferenceAbsent", [(UP, "1x30")], "6m", False),
    ("InferenceAbsent", [(UP, "1x30"), (UP2 % "d1", "0x30")], "6m", False),  # one of two
    ("InferenceQueueGrowing", [(WAITING, "30x30")], "6m", True),
    ("InferenceQueueGrowing", [(WAITING, "30x30")], "3m", False),  # not yet
    ("InferenceQueueGrowing", [(WAITING, "5x30")], "10m", False),
    ("InferenceFirstTokenSlow", buckets("stable", True), "20m", True),
    ("InferenceFirstTokenSlow", buckets("stable", False), "20m", False),
    ("InferenceKVCacheFull", [(f'vllm:kv_cache_usage_perc{{{MATCHERS},pod="a"}}', "0.99x30")], "11m", True),
    ("InferenceKVCacheFull", [(f'vllm:kv_cache_usage_perc{{{MATCHERS},pod="a"}}', "0.9x30")], "20m", False),
    ("InferenceErrors", [(HTTP % "2xx", "0+90x30"), (HTTP % "5xx", "0+10x30")], "12m", True),
    (
        "InferenceErrors",
        [(HTTP % "2xx", "0+999x30"), (HTTP % "5xx", "0+1x30"), (HTTP % "4xx", "0+500x30")],
        "12m",
        False,
    ),
    ("InferenceTracksDiffer", [(UP, "1x90"), (UP2 % "d2", "1x90")], "61m", True),
    ("InferenceTracksDiffer", [(UP, "1x90"), (UP2 % "d2", "1x30 0x60")], "61m", False),  # a rollout that ended
    ("InferenceTracksDiffer", [(UP, "1x90"), (UP2 % "d1", "1x90")], "61m", False),
    (
        "InferenceCanaryFailed",
        [('kube_job_status_failed{namespace="llm",job_name="rel-inference-canary"}', "1x30")],
        "1m",
        True,
    ),
    (
        "InferenceCanaryFailed",
        [('kube_job_status_failed{namespace="llm",job_name="rel-inference-canary"}', "0x30")],
        "1m",
        False,
    ),
    (
        "InferenceModelNotVerified",
        [
            (
                'kube_pod_init_container_status_waiting_reason{namespace="llm",pod="rel-inference-1",container="model",reason="CrashLoopBackOff"}',
                "1x30",
            )
        ],
        "6m",
        True,
    ),
    (
        "InferenceModelNotVerified",
        [
            (
                'kube_pod_init_container_status_waiting_reason{namespace="llm",pod="other-1",container="model",reason="CrashLoopBackOff"}',
                "1x30",
            )
        ],
        "6m",
        False,
    ),
]


def fired(folder, chart, mode, cases):
    """Run the cases in one promtool; a firing alert's labels and annotations are not compared, only that it fires."""
    path, problems = rules(folder, chart, mode), []
    for alert, series, at, fires in cases:
        # promtool compares all labels of an alert, so whether it fires is asked of Prometheus's own ALERTS series
        asked = {"expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)', "eval_time": at}
        asked["exp_samples"] = [{"labels": "{}", "value": 1 if fires else 0}]
        test = {
            "interval": "1m",
            "input_series": [{"series": n, "values": v} for n, v in series],
            "promql_expr_test": [asked],
        }
        problems.append(test)
    (folder / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": [Path(path).name], "evaluation_interval": "1m", "tests": problems})
    )
    promtool("test", "rules", folder / "tests.yaml")


def step(metric, name="sft.train", cache="miss"):
    return f'{metric}{{phase="sft",step="{name}",cache="{cache}"}}'


DOWN = 'kube_deployment_status_replicas_available{namespace="llm",deployment="rel-tokenmill-%s"}'
STORE = 'kube_statefulset_status_replicas_ready{namespace="llm",statefulset="rel-tokenmill-object-store"}'
VOLUME = 'kubelet_volume_stats_%s_bytes{namespace="llm",persistentvolumeclaim="%s"}'
TRAINING = (
    '{phase="pretraining",step="pretraining.pretrain",task="pretraining.pretrain.short",instance="a:9464",job="llm/p"}'
)
PUSHED = '{phase="sft",step="sft.train",task="sft.train",job="tokenmill",run="r1"}'
RUN = '{job="tokenmill",pipeline="lifecycle",preset="nano"}'


def on(metric, values, labels=TRAINING):
    return (f"tokenmill_{metric}{labels}", values)


# Series begin at 1970, as promtool's time does: a timestamp of 0 is as old as the test
STEP_AT, CHECKPOINT_AT = "training_last_step_timestamp_seconds", "training_checkpoint_timestamp_seconds"
LOSS, MFU, BACK = "training_loss_nats", "training_mfu_ratio", "training_rollbacks"
HELD = "training_heldout_loss_nats"
MISS = PUSHED.replace("}", ',cache="miss"}')
TRAINING_CASES = [
    ("TokenMillRunFailed", [on("run_success", "0x5", RUN)], "1m", True),
    ("TokenMillRunFailed", [on("run_success", "1x5", RUN)], "1m", False),
    ("TokenMillTrainingStuck", [on(STEP_AT, "0+60x5 300x30")], "21m", True),
    ("TokenMillTrainingStuck", [on(STEP_AT, "0+60x40")], "39m", False),
    ("TokenMillTrainingStuck", [on(STEP_AT, "0x40")], "10m", False),  # not yet
    ("TokenMillTrainingLossSpike", [on(LOSS, "2x30 3x10")], "33m", True),
    ("TokenMillTrainingLossSpike", [on(LOSS, "2x30 NaN NaN NaN NaN")], "33m", True),
    ("TokenMillTrainingLossSpike", [on(LOSS, "2x30 2.2x10")], "33m", False),
    ("TokenMillTrainingLossSpike", [on(LOSS, "10-0.2x40")], "40m", False),  # it falls
    ("TokenMillHeldoutLossRising", [on(HELD, "4x5 3x5 3.2x5")], "12m", True),
    ("TokenMillHeldoutLossRising", [on(HELD, "4x5 3x5 3.1x5")], "12m", False),
    ("TokenMillTrainingRolledBack", [on(BACK, "0x10 1x10")], "12m", True),
    ("TokenMillTrainingRolledBack", [on(BACK, "0x10 1x60")], "55m", False),  # told
    ("TokenMillTrainingMFUDrop", [on(MFU, "0.5x60 0.3x40")], "85m", True),
    ("TokenMillTrainingMFUDrop", [on(MFU, "0.5x60 0.45x40")], "85m", False),
    ("TokenMillTrainingMFUDrop", [on(MFU, "0.5x60 0.3x2 0.5x40")], "85m", False),  # an evaluation
    ("TokenMillCheckpointOld", [on(CHECKPOINT_AT, "0x150")], "121m", True),
    ("TokenMillCheckpointOld", [on(CHECKPOINT_AT, "0x100 6000x50")], "121m", False),
    ("TokenMillGateFailed", [on("gate_passed", "0x5", PUSHED)], "1m", True),
    ("TokenMillGateFailed", [on("gate_passed", "1x5", PUSHED)], "1m", False),
    ("TokenMillScoreDropped", [on("evaluation_drops", "1x5", PUSHED)], "1m", True),
    ("TokenMillScoreDropped", [on("evaluation_drops", "0x5", PUSHED)], "1m", False),
    ("TokenMillBudgetNear", [on("training_budget_used_ratio", "0.91x5")], "1m", True),
    ("TokenMillBudgetNear", [on("training_budget_used_ratio", "0.89x5")], "1m", False),
    ("TokenMillBudgetNear", [on("step_seconds", "95x5", MISS), on("step_budget_seconds", "100x5", PUSHED)], "1m", True),
    (
        "TokenMillBudgetNear",
        [on("step_seconds", "80x5", MISS), on("step_budget_seconds", "100x5", PUSHED)],
        "1m",
        False,
    ),
    # one that runs: begun at 0, 100 s allowed
    (
        "TokenMillBudgetNear",
        [on("step_started_timestamp_seconds", "0x5"), on("step_budget_seconds", "100x5")],
        "2m",
        True,
    ),
    (
        "TokenMillBudgetNear",
        [
            on("step_started_timestamp_seconds", "0x5", PUSHED),
            on("step_finished_timestamp_seconds", "50x5", PUSHED),
            on("step_seconds", "50x5", MISS),
            on("step_budget_seconds", "100x5", PUSHED),
        ],
        "2m",
        False,
    ),
]
PLATFORM_CASES = [
    *TRAINING_CASES,
    ("TokenMillStepFailed", [('tokenmill_step_success{phase="sft",step="sft.train"}', "0x5")], "1m", True),
    ("TokenMillStepFailed", [('tokenmill_step_success{phase="sft",step="sft.train"}', "1x5")], "1m", False),
    ("TokenMillStepSlow", [(step("tokenmill_step_seconds"), "1000x40 4000x10")], "42m", True),
    ("TokenMillStepSlow", [(step("tokenmill_step_seconds"), "1000x40 2000x10")], "42m", False),
    ("TokenMillStepSlow", [(step("tokenmill_step_seconds"), "10x40 90x10")], "42m", False),  # a short step may vary
    ("TokenMillServiceDown", [(DOWN % "mlflow", "0x10")], "6m", True),
    ("TokenMillServiceDown", [(STORE, "0x10")], "6m", True),
    ("TokenMillServiceDown", [(DOWN % "mlflow", "1x10"), (STORE, "1x10"), (DOWN % "other", "0x10")], "6m", False),
    (
        "TokenMillVolumeFull",
        [
            (VOLUME % ("used", "rel-tokenmill-mlflow"), "90x30"),
            (VOLUME % ("capacity", "rel-tokenmill-mlflow"), "100x30"),
        ],
        "16m",
        True,
    ),
    (
        "TokenMillVolumeFull",
        [
            (VOLUME % ("used", "data-rel-tokenmill-object-store-0"), "90x30"),
            (VOLUME % ("capacity", "data-rel-tokenmill-object-store-0"), "100x30"),
        ],
        "16m",
        True,
    ),
    (
        "TokenMillVolumeFull",
        [
            (VOLUME % ("used", "rel-tokenmill-mlflow"), "80x30"),
            (VOLUME % ("capacity", "rel-tokenmill-mlflow"), "100x30"),
        ],
        "16m",
        False,
    ),
]


@needs_promtool
def test_platform_alerts_fire_when_they_should_and_only_then(tmp_path):
    fired(tmp_path, "tokenmill", "full", PLATFORM_CASES)


@needs_promtool
def test_inference_alerts_fire_when_they_should_and_only_then(tmp_path):
    fired(tmp_path, "inference", "gpu", CASES)


@pytest.mark.parametrize(
    ("chart", "mode", "cases"), [("inference", "gpu", CASES), ("tokenmill", "full", PLATFORM_CASES)]
)
def test_every_alert_is_tested_both_ways(chart, mode, cases):
    names = {r["alert"] for g in render(chart, mode).one("PrometheusRule")["spec"]["groups"] for r in g["rules"]}
    assert {alert for alert, *_, fires in cases if fires} == names == {alert for alert, *_, fires in cases if not fires}


@needs_promtool
def test_a_threshold_is_what_the_values_say(tmp_path):
    path = rules(tmp_path, "inference", "gpu", {"prometheusRule": {"thresholds": {"queueLength": 3}}})
    assert "> 3" in path.read_text()
