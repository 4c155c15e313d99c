"""A real Prometheus scrapes a real training, and the chart's own alerts fire on it."""

import json
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager, suppress

import pytest
import yaml
from faults import kill, start, stocked, trainers, wait_for
from prometheus_client.parser import text_string_to_metric_families
from rendered import needs_helm, render
from servers import free_ports

from tokenmill.telemetry import METRICS

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(280),
    needs_helm,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="no Prometheus: apt-get install prometheus"),
]
TASK = "pretraining.pretrain.short"
NO_GPU = {  # of a training, by catalogue: what a CPU of unknown peak, no price and no limit have no number for
    "tokenmill_training_mfu_ratio",
    "tokenmill_training_hfu_ratio",
    "tokenmill_training_energy_joules",
}


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


@contextmanager
def prometheus(folder, target, thresholds):
    """Prometheus with the chart's rules, once a second; yields what asks it."""
    (port,) = free_ports(1)
    spec = render("tokenmill", "full", {"prometheusRule": {"thresholds": thresholds}}).one("PrometheusRule")["spec"]
    (folder / "rules.yaml").write_text(yaml.safe_dump(spec))
    scraped = {"job_name": "pipeline", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
    every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config = {"global": every, "rule_files": ["rules.yaml"], "scrape_configs": [scraped]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/tsdb"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)

    def ask(expression):
        query = urllib.parse.urlencode({"query": expression})
        with suppress(OSError):
            return json.loads(get(f"http://127.0.0.1:{port}/api/v1/query?{query}"))["data"]["result"]
        return []

    try:
        yield ask
    finally:
        process.kill()
        process.wait()


def firing(ask, alert):
    return [found["metric"] for found in ask(f'ALERTS{{alertname="{alert}",alertstate="firing"}}')]


def test_a_training_is_scraped_and_one_that_stands_still_raises_its_alerts(tmp_path):
    root, inputs = stocked(tmp_path)
    (port,) = free_ports(1)
    settings = [
        f"pretraining.pretrain.short.tokens={512 * 4000}",
        "pretraining.pretrain.short.execution.checkpoint_every=3",
        "pretraining.pretrain.short.execution.stuck_after_s=200",
        "pretraining.pretrain.short.execution.budget={price_per_hour: 1000000, cost: 1000000000}",
    ]
    process = start(root / "store", inputs, settings=settings, env={"TOKENMILL_METRICS_PORT": str(port)})
    try:
        with prometheus(tmp_path, port, {"stuckSeconds": 8, "checkpointSeconds": 12}) as ask:
            wait_for(lambda: ask("tokenmill_training_restarts") or process.poll() is not None, "a scrape")
            assert process.poll() is None, process.stderr.read()[-2000:]
            wait_for(lambda: ask("changes(tokenmill_training_checkpoint_timestamp_seconds[1m]) > 0"), "a checkpoint")
            (loss,) = ask("tokenmill_training_loss_nats")
            assert loss["metric"]["task"] == TASK and loss["metric"]["phase"] == "pretraining"
            assert 0 < float(loss["value"][1]) < 12
            found = {
                s.name
                for f in text_string_to_metric_families(get(f"http://127.0.0.1:{port}/metrics"))
                for s in f.samples
            }
            expected = {name for name in METRICS if name.startswith("tokenmill_training_")} - NO_GPU
            assert expected <= found, sorted(expected - found)
            assert found <= set(METRICS)
            (told,) = ask("tokenmill_run_info")
            assert told["metric"]["preset"] == "pico" and told["metric"]["run"]
            alerts = ("TokenMillTrainingStuck", "TokenMillCheckpointOld")
            wait_for(lambda: not any(firing(ask, alert) for alert in alerts), "silence while it trains", 60)

            stopped = next(rank for rank in trainers(root / "store") if rank.environ()["RANK"] == "1")
            stopped.send_signal(signal.SIGSTOP)  # rank 0 waits for it, and goes on answering
            wait_for(lambda: firing(ask, "TokenMillTrainingStuck"), "the alert of a stuck training", 60)
            wait_for(lambda: firing(ask, "TokenMillCheckpointOld"), "the alert of an old checkpoint", 60)
            assert [alert["task"] for alert in firing(ask, "TokenMillTrainingStuck")] == [TASK]
            assert float(ask("tokenmill_training_last_step_timestamp_seconds")[0]["value"][1]) < time.time() - 8
    finally:
        kill(root / "store", process)
