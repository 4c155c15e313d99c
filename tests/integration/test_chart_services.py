"""What the chart `tokenmill` would run in its pods, run here on the real programs: SeaweedFS, MLflow, the Job that prepares.

No kubelet and no container: paths and ports in the rendered commands are those of this machine.
"""

import base64
import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import requests
import servers
from rendered import needs_helm, render

from tokenmill.deployment.fetch import fetch
from tokenmill.deployment.prepare import prepare
from tokenmill.deployment.publish import publish
from tokenmill.deployment.release import pin
from tokenmill.deployment.verify import verify
from tokenmill.errors import CredentialsError, StoreError

pytestmark = [pytest.mark.integration, needs_helm]
RENDERED = ("tokenmill", "cpu")


def container(kind):
    return render(*RENDERED).one(kind)["spec"]["template"]["spec"]["containers"][0]


def secret(name):
    return {k: base64.b64decode(v).decode() for k, v in render(*RENDERED).one("Secret", name)["data"].items()}


@contextmanager
def process(command, environment, log):
    with log.open("wb") as out:
        running = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        yield running
    finally:
        os.killpg(running.pid, 9)
        running.wait()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The object store as the chart starts it, with the keys that the chart made; still without a bucket."""
    room = tmp_path_factory.mktemp("store")
    (room / "data").mkdir()
    (room / "s3.json").write_text(secret("rel-tokenmill-object-store")["s3.json"])
    ports = servers.free_ports(9)
    own = {"-s3.port": ports[0], "-metricsPort": ports[1], "-dir": room / "data", "-s3.config": room / "s3.json"}
    own |= {"-ip.bind": "127.0.0.1"}  # in a pod: every address
    arguments = [
        f"{name}={own.get(name, value)}" if value else name
        for name, _, value in (a.partition("=") for a in container("StatefulSet")["args"])
    ]
    names = (
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port.grpc",
    )
    arguments += [f"-{name}={port}" for name, port in zip(names, ports[2:], strict=True)]
    with process([servers.weed_binary(), *arguments], os.environ | {"HOME": str(room)}, room / "weed.log") as running:
        keys = secret("tokenmill-store")
        environment = {
            "TOKENMILL_S3_ENDPOINT": f"http://127.0.0.1:{ports[0]}",
            "TOKENMILL_STORE": "s3://tokenmill",
            "AWS_ACCESS_KEY_ID": keys["access-key"],
            "AWS_SECRET_ACCESS_KEY": keys["secret-key"],
        }
        yield environment, running, ports[1], room / "weed.log"


def run_job(component, environment, *more):
    job = container("Job") if component == "prepare" else render(*RENDERED).one("Pod")["spec"]["containers"][0]
    command = [sys.executable, *job["command"][1:], *more]
    environment = os.environ | environment | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_job_makes_the_bucket_once_and_the_test_is_content_after_it(store):
    environment, running, *_, log = store
    first = run_job("prepare", environment, "--patience=60")
    assert first.returncode == 0, first.stderr + log.read_text()[-2000:]
    assert "bucket   tokenmill made" in first.stdout and "can what leases need" in first.stdout
    assert "is there" in run_job("prepare", environment).stdout
    assert run_job("test", environment).returncode == 0
    assert running.poll() is None


def test_a_check_makes_no_bucket_and_wrong_keys_are_refused(store, monkeypatch):
    environment, *_ = store
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match="no such bucket"):
        prepare("s3://another", make_bucket=False, patience_s=0)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(CredentialsError):
        prepare("s3://tokenmill", make_bucket=True, patience_s=0)


def test_a_release_goes_through_the_bucket_and_damage_does_not(store, tmp_path, monkeypatch):
    from release_facts import FACTS

    environment, *_ = store
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    prepare("s3://tokenmill", make_bucket=True, patience_s=60)
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / "config.json").write_text("{}")
    pin(folder, FACTS)
    digest = publish(folder, "s3://tokenmill/releases/chat")
    got = fetch("s3://tokenmill/releases/chat", digest, tmp_path / "node")
    assert {p.name: p.read_bytes() for p in got.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_the_store_tells_prometheus(store):
    _, _, port, _ = store
    assert "SeaweedFS_" in requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text


def test_mlflow_starts_as_the_chart_starts_it_and_knows_its_names(tmp_path, store):
    mlflow, (port,) = container("Deployment"), servers.free_ports(1)
    arguments = [a.replace("--port=5000", f"--port={port}").replace("0.0.0.0", "127.0.0.1") for a in mlflow["args"]]
    environment = {e["name"]: e["value"] for e in mlflow["env"] if "value" in e}
    environment |= {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }
    environment |= {k: v for k, v in store[0].items() if k.startswith("AWS_")} | {"OMP_NUM_THREADS": "1"}
    (header,) = mlflow["readinessProbe"]["httpGet"]["httpHeaders"]
    with process([sys.executable, *mlflow["command"][1:], *arguments], environment, tmp_path / "mlflow.log"):
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                answer = requests.get(f"{url}/health", headers={header["name"]: header["value"]}, timeout=5)
                break
            except requests.RequestException:
                assert time.monotonic() < deadline, (tmp_path / "mlflow.log").read_text()[-2000:]
                time.sleep(0.3)
        assert answer.status_code == 200
        search, names = f"{url}/api/2.0/mlflow/experiments/search?max_results=1", "rel-tokenmill-mlflow.llm.svc:5000"
        assert requests.get(search, headers={"Host": names}, timeout=30).status_code == 200
        assert (tmp_path / "mlflow.db").exists()
        assert requests.get(search, headers={"Host": "evil.example.com"}, timeout=30).status_code == 403


def test_a_release_is_fetched_by_the_name_that_mlflow_knows(tmp_path, monkeypatch):
    """The real registry, in sqlite beside the store: alias and version both lead to the release's files."""
    from pico import Lab, released

    from tokenmill.deployment.config import RegisterConfig

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lab = Lab(tmp_path / "lab")
    made = released(lab)
    lab.step("deployment.register", RegisterConfig(name="chat"), model=made.release, verdict=made.verdict)
    monkeypatch.setenv("TOKENMILL_STORE", lab.store.uri)
    by_alias, by_version = (fetch(f"models:/chat{end}", "", tmp_path / "node") for end in ("@candidate", "/1"))
    assert by_alias == by_version == tmp_path / "node" / made.release.digest
    assert verify(by_alias).release["name"] == "internlm2-chat"
