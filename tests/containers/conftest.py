"""A Docker engine, the images of this tree, and the pods that both charts make of a bare node."""

import os
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

docker = pytest.importorskip("docker", reason="the Docker SDK is not installed (extra: dev)")

ROOT = Path(__file__).parents[2]
BASE = "python:3.11-slim-bookworm"


@pytest.fixture(scope="session")
def engine():
    """The address of a Docker engine: the one that answers, or a private one if we are root."""
    found = subprocess.run([ROOT / "images/engine.sh"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(found.stderr.strip().splitlines()[-1])
    return found.stdout.strip().removeprefix("export DOCKER_HOST=")


@pytest.fixture(scope="session")
def client(engine):
    """The engine, with every image built from this tree as `make images` does; a minute when only the tree changed."""
    environment = os.environ | {"DOCKER_HOST": engine, "PROGRESS": "plain"}
    with closing(docker.DockerClient(base_url=engine, timeout=120)) as client:
        if not client.images.list(name=BASE) and not shutil.which("mmdebstrap"):
            pytest.skip(f"no {BASE}, and no mmdebstrap to make one")
        for script in ("images/base.sh", "images/build.sh"):
            done = subprocess.run([ROOT / script], env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
        yield client


@pytest.fixture(scope="session")
def run(client):
    """Run a command in an image, without a network, and return what it printed."""

    def run(image, *command, **more):
        more = {"network_mode": "none"} | more
        return client.containers.run(image, list(command), remove=True, **more).decode()

    return run


@pytest.fixture(scope="session")
def namespace(client, tmp_path_factory):
    """What `helm install` of both charts makes of a bare node; nothing runs yet."""
    import pods
    from rendered import render

    if os.getuid():
        pytest.skip("only root can own volumes as a kubelet does")
    network = client.networks.create("tokenmill-tests", driver="bridge")
    room = pods.open_to_all(tmp_path_factory.mktemp("volumes"))
    objects = render("tokenmill", "cpu").objects + render("inference", "cpu").objects
    space = pods.Namespace(client, objects, room, network)
    yield space
    space.close()
    network.remove()


@pytest.fixture(scope="session")
def platform(namespace):
    """The services of the chart `tokenmill`, ready, and what its Job said."""
    store = namespace.start(namespace.one("StatefulSet", "rel-tokenmill-object-store")).wait_ready()
    mlflow = namespace.start(namespace.one("Deployment", "rel-tokenmill-mlflow")).wait_ready()
    return store, mlflow, namespace.completed(namespace.one("Job", "rel-tokenmill-prepare"))


@pytest.fixture(scope="session")
def reach(namespace, platform):
    """Environment in which this machine reaches store and registry of the platform."""
    store, mlflow, _ = platform
    keys = namespace.secret("tokenmill-store")
    return {
        "TOKENMILL_STORE": namespace.one("ConfigMap", "tokenmill")["data"]["store"],
        "TOKENMILL_S3_ENDPOINT": store.url("s3"),
        "AWS_ACCESS_KEY_ID": keys["access-key"].decode(),
        "AWS_SECRET_ACCESS_KEY": keys["secret-key"].decode(),
        "MLFLOW_TRACKING_URI": mlflow.url("http"),
    }


@pytest.fixture
def reached(reach, monkeypatch):
    """The same, set: what a test calls of ours works on the platform."""
    for name, value in reach.items():
        monkeypatch.setenv(name, value)
    return reach
