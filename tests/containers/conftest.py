"""A Docker engine and the images of this tree, for tests of what runs in them."""

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
def images(engine):
    """Every image, built from this tree as `make images` does; a minute when only the tree changed."""
    environment = os.environ | {"DOCKER_HOST": engine, "PROGRESS": "plain"}
    with closing(docker.DockerClient(base_url=engine)) as client:
        if not client.images.list(name=BASE) and not shutil.which("mmdebstrap"):
            pytest.skip(f"no {BASE}, and no mmdebstrap to make one")
    for script in ("images/base.sh", "images/build.sh"):
        done = subprocess.run([ROOT / script], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="session")
def client(engine, images):
    with closing(docker.DockerClient(base_url=engine, timeout=120)) as client:
        yield client


@pytest.fixture(scope="session")
def run(client):
    """Run a command in an image, without a network, and return what it printed."""

    def run(image, *command, **more):
        more = {"network_mode": "none"} | more
        return client.containers.run(image, list(command), remove=True, **more).decode()

    return run
